#include "api/line_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <chrono>
#include <filesystem>
#include <future>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

/// A pipe with a name, whose writing end is open.
class LineReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
    writer_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);  // does not wait for a reader
    ASSERT_GE(writer_, 0);
  }
  void TearDown() override {
    if (writer_ >= 0) ::close(writer_);
  }
  void write(std::string_view text) const {
    ASSERT_EQ(::write(writer_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_writer() {
    ::close(writer_);
    writer_ = -1;
  }

  const TestFolder folder_;
  const std::filesystem::path path_ = folder_ / "pipe";
  int writer_ = -1;
};

TEST_F(LineReaderTest, HasALineOnceItIsWhole) {
  LineReader lines(path_, 100);
  EXPECT_FALSE(lines.has_line());
  write("\xEF\xBB\xBFone\ntw");
  EXPECT_TRUE(lines.has_line());
  std::string line;
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line, "one");
  EXPECT_FALSE(lines.has_line());
  write("o");
  close_writer();
  ASSERT_TRUE(lines.next(line));
  EXPECT_EQ(line, "two");
  EXPECT_FALSE(lines.next(line));
}

TEST_F(LineReaderTest, KeepsALittleMoreThanALineMayHave) {
  LineReader lines(path_, 4);
  write("1234\n123456789\n\n");
  std::string line;
  for (const char* want : {"1234", "12345", ""}) {
    ASSERT_TRUE(lines.next(line));
    EXPECT_EQ(line, want);
  }
}

// A chat at its prompt once slept through a Ctrl-C that came between its look and its wait.
TEST_F(LineReaderTest, NeverWaitsForLongSoThatCallersCanLookAround) {
  const LineReader lines(path_, 100);
  const auto waiting = std::async(std::launch::async, [&] { lines.wait(); });
  const bool came_back = waiting.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  EXPECT_TRUE(came_back);
  if (!came_back) write("\n");  // so that the test ends
}

TEST_F(LineReaderTest, WhatCannotBeReadIsNamed) {
  EXPECT_THROW(LineReader(path_.string() + ".none", 100), IoError);
  EXPECT_THROW(LineReader(path_.parent_path(), 100), IoError);
}

}  // namespace
}  // namespace nanoflow
