#include "api/batch_output.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

class BatchOutputTest : public testing::Test {
 protected:
  static constexpr uint64_t kAsked = 0xabc0;  // plus the index: each item's fingerprint
  static Json line(int64_t index, int status = 200) {
    return batch_line(index, kAsked + static_cast<uint64_t>(index), "c" + std::to_string(index),
                      status, Json::object({{"x", index}}));
  }
  static std::string text(std::initializer_list<int64_t> indices) {
    std::string lines;
    for (const int64_t index : indices) lines += line(index).dump() + "\n";
    return lines;
  }
  static bool is_done(const BatchOutput& out, int64_t index) {
    return out.is_done(index, kAsked + static_cast<uint64_t>(index));
  }
  std::string content() const { return read_file(path_); }

  const TestFolder folder_;
  const std::filesystem::path path_ = folder_ / "out";
};

TEST_F(BatchOutputTest, PutsLinesInInputOrderAtTheEnd) {
  BatchOutput out(path_, BatchOutput::Mode::kCreate, true);
  for (const int64_t i : {2, 0, 1}) out.write(i, line(i));
  EXPECT_EQ(content(), text({2, 0, 1})) << "a killed run must lose none that is finished";
  out.finish();
  EXPECT_EQ(content(), text({0, 1, 2}));
}

TEST_F(BatchOutputTest, LeavesLinesAsFinished) {
  BatchOutput out(path_, BatchOutput::Mode::kCreate, false);
  out.write(1, line(1));
  out.write(0, line(0));
  out.finish();
  EXPECT_EQ(content(), text({1, 0}));
}

TEST_F(BatchOutputTest, ResumesBehindTheLastWholeLine) {
  write_file_atomically(path_, text({3, 0}) + "{\"id\": \"batch_re");
  BatchOutput out(path_, BatchOutput::Mode::kResume, true);
  EXPECT_TRUE(is_done(out, 0));
  EXPECT_TRUE(is_done(out, 3));
  EXPECT_FALSE(is_done(out, 1));
  EXPECT_EQ(out.num_done(), 2);
  out.write(1, line(1));
  EXPECT_EQ(content(), text({3, 0, 1}));
  out.finish();
  EXPECT_EQ(content(), text({0, 1, 3}));
}

TEST_F(BatchOutputTest, FailedRequestsAreNotDone) {
  write_file_atomically(path_,
                        line(0, 500).dump() + "\n" + text({1}) + line(2, 400).dump() + "\n{\"id\"");
  std::filesystem::permissions(
      path_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  BatchOutput out(path_, BatchOutput::Mode::kResume, true);
  EXPECT_FALSE(is_done(out, 0));
  EXPECT_TRUE(is_done(out, 1));
  EXPECT_FALSE(is_done(out, 2));
  EXPECT_EQ(content(), text({1})) << "else they would be in the file twice";
  for (const int64_t i : {2, 0}) out.write(i, line(i));
  out.finish();
  EXPECT_EQ(content(), text({0, 1, 2}));
  EXPECT_EQ(std::filesystem::status(path_).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_FALSE(std::filesystem::exists(path_.string() + ".nanoflow-tmp"));
}

TEST_F(BatchOutputTest, AnotherDataSetIsRefused) {
  write_file_atomically(path_, text({0}));
  const BatchOutput out(path_, BatchOutput::Mode::kResume, true);
  EXPECT_THROW((void)out.is_done(0, kAsked + 1), FormatError);
  EXPECT_FALSE(out.is_done(1, kAsked));
  for (const char* id :
       {"batch_req_1", "batch_req_1_", "batch_req_-1_0", "batch_req_1_0x", "1_1"}) {
    const std::string other = (folder_ / "other_ids").string();
    write_file_atomically(other, Json::object({{"id", id}}).dump() + "\n");
    EXPECT_THROW(BatchOutput(other, BatchOutput::Mode::kResume, true), FormatError) << id;
  }
}

TEST_F(BatchOutputTest, RefusesToOverwriteUnasked) {
  write_file_atomically(path_, "precious\n");
  EXPECT_THROW(BatchOutput(path_, BatchOutput::Mode::kCreate, true), IoError);
  EXPECT_THROW(BatchOutput(path_, BatchOutput::Mode::kResume, true), FormatError);
  BatchOutput out(path_, BatchOutput::Mode::kOverwrite, true);
  EXPECT_EQ(content(), "precious\n") << "a run that fails to start must not cost the old answers";
  out.write(0, line(0));
  EXPECT_EQ(content(), text({0}));
}

TEST_F(BatchOutputTest, OverwrittenByNothingItIsEmpty) {
  write_file_atomically(path_, "precious\n");
  BatchOutput(path_, BatchOutput::Mode::kOverwrite, true).finish();
  EXPECT_EQ(content(), "");
}

TEST_F(BatchOutputTest, OneRunAtATime) {
  for (const bool resorted : {false, true}) {
    BatchOutput out(path_, BatchOutput::Mode::kResume, true);
    if (resorted) {
      for (const int64_t i : {1, 0}) out.write(i, line(i));
      out.finish();  // replaces the file: the new one must be locked, too
    }
    for (const auto mode : {BatchOutput::Mode::kResume, BatchOutput::Mode::kOverwrite})
      EXPECT_THROW(BatchOutput(path_, mode, true), IoError);
  }
  EXPECT_EQ(BatchOutput(path_, BatchOutput::Mode::kResume, true).num_done(), 2);
}

TEST_F(BatchOutputTest, ALinkStaysALink) {
  const std::filesystem::path target = path_.string() + ".target";
  std::filesystem::remove(target);
  std::filesystem::create_symlink(target, path_);
  BatchOutput out(path_, BatchOutput::Mode::kCreate, true);
  for (const int64_t i : {1, 0}) out.write(i, line(i));
  out.finish();
  EXPECT_TRUE(std::filesystem::is_symlink(path_));
  EXPECT_EQ(read_file(target), text({0, 1}));
}

TEST_F(BatchOutputTest, WhatIsNoFileCanNeitherBeSortedNorResumed) {
  EXPECT_THROW(BatchOutput("/dev/null", BatchOutput::Mode::kCreate, true), ConfigError);
  EXPECT_THROW(BatchOutput("/dev/null", BatchOutput::Mode::kResume, false), ConfigError);
  BatchOutput out("/dev/null", BatchOutput::Mode::kCreate, false);
  out.write(0, line(0));
  out.finish();
}

TEST_F(BatchOutputTest, ReportsAFullDisk) {
  BatchOutput out("/dev/full", BatchOutput::Mode::kOverwrite, false);
  EXPECT_THROW(out.write(0, line(0)), IoError);
}

}  // namespace
}  // namespace nanoflow
