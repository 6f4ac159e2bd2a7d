#include "base/mmap.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

class WriteFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("write_file_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] size_t num_files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

TEST_F(WriteFile, CreatesAndReplaces) {
  write_file_atomically(folder_ / "a", "first");
  write_file_atomically(folder_ / "a", "second");
  EXPECT_EQ(read_file(folder_ / "a"), "second");
  EXPECT_EQ(num_files(), 1U);
}

TEST_F(WriteFile, ReplacesWhatALinkPointsTo) {
  write_file_atomically(folder_ / "target", "old");
  fs::create_symlink(folder_ / "target", folder_ / "link");
  write_file_atomically(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_file(folder_ / "target"), "new");
}

// "--json /dev/full" once put a regular file in the device's place.
TEST_F(WriteFile, WritesIntoDevicesAndPipes) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string received;
  std::thread reader([&] { received = read_file(pipe); });
  write_file_atomically(pipe, "through");
  reader.join();
  EXPECT_EQ(received, "through");
  EXPECT_TRUE(fs::is_fifo(pipe));

  EXPECT_THROW(write_file_atomically("/dev/full", "x"), IoError);
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST_F(WriteFile, LeavesNothingBehindWhenItFails) {
  fs::create_directory(folder_ / "folder");
  EXPECT_THROW(write_file_atomically(folder_ / "folder", "x"), IoError);
  EXPECT_THROW(write_file_atomically(folder_ / "none" / "a", "x"), IoError);
  EXPECT_EQ(num_files(), 1U);
}

}  // namespace
}  // namespace nanoflow
