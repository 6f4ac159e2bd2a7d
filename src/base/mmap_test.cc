#include "base/mmap.h"

#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

class WriteFile : public ::testing::Test {
 protected:
  [[nodiscard]] size_t num_files() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  const TestFolder temporary_;
  const fs::path folder_ = temporary_.path();
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

std::string write_failure(const fs::path& path) {
  try {
    write_file_atomically(path, "x");
  } catch (const IoError& e) {
    return e.what();
  }
  return "";
}

TEST_F(WriteFile, MappedFilesAreReadFromAnyOffsetAndNoticeThatTheyShrank) {
  const fs::path path = folder_ / "read";
  std::string content(3 << 20, 'x');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 % 251);
  write_file_atomically(path, content);
  MappedFile moved(path);
  const MappedFile file = std::move(moved);
  std::string got(content.size() - 12345, '\0');
  file.read(12345, std::as_writable_bytes(std::span(got)));
  EXPECT_EQ(got, content.substr(12345));
  file.read(content.size(), {});
  fs::resize_file(path, 1 << 20);
  try {
    file.read(1 << 19, std::as_writable_bytes(std::span(got)).first(1 << 20));
    ADD_FAILURE() << "read behind the end";
  } catch (const IoError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("became shorter"));
  }
}

TEST_F(WriteFile, FailuresNameThePathThatWasAsked) {
  const fs::path path = folder_ / "none" / "a.json";
  EXPECT_EQ(write_failure(path), path.string() + ": cannot create: No such file or directory");
  EXPECT_EQ(write_failure(folder_), folder_.string() + ": is a folder");
}

TEST_F(WriteFile, RequireWritableFailsWhereWritingWould) {
  write_file_atomically(folder_ / "old", "content");
  require_writable(folder_ / "old");
  require_writable(folder_ / "new");
  require_writable("/dev/null");
  EXPECT_EQ(read_file(folder_ / "old"), "content");
  EXPECT_EQ(num_files(), 1U);
  EXPECT_THROW(require_writable(folder_ / "none" / "a"), IoError);
  EXPECT_THROW(require_writable(folder_), IoError);
  EXPECT_EQ(num_files(), 1U);
}

TEST_F(WriteFile, RequireWritableDoesNotWaitForAPipesReader) {
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  require_writable(folder_ / "pipe");
}

TEST_F(WriteFile, WhatCannotBeLookedAtIsAnErrorAndNotAbsent) {
  EXPECT_TRUE(file_exists(folder_));
  EXPECT_TRUE(is_folder(folder_));
  EXPECT_FALSE(file_exists(folder_ / "none"));
  EXPECT_FALSE(file_exists(folder_ / "none" / "further"));
  EXPECT_FALSE(is_folder(folder_ / "none"));
  fs::create_symlink("loop", folder_ / "loop");
  EXPECT_THROW((void)file_exists(folder_ / "loop"), IoError);
  EXPECT_THROW((void)is_folder(folder_ / "loop"), IoError);
  EXPECT_THROW((void)file_exists(folder_ / std::string(5000, 'x')), IoError);
  EXPECT_THROW(write_file_atomically(folder_ / "loop", "x"), IoError);
}

}  // namespace
}  // namespace nanoflow
