#include "api/batch_output.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"

namespace nanoflow {
namespace {

class BatchOutputTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(testing::TempDir()) /
            (std::string("out_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove(path_);
  }
  static Json line(int64_t index) {
    return batch_line(index, "c" + std::to_string(index), 200, Json::object({{"x", index}}));
  }
  std::string content() const { return read_file(path_); }

  std::filesystem::path path_;
};

TEST_F(BatchOutputTest, KeepsInputOrder) {
  BatchOutput out(path_, BatchOutput::Mode::kCreate, true);
  for (int64_t i : {0, 1, 2}) out.expect(i);
  out.write(2, line(2));
  EXPECT_EQ(content(), "");
  out.write(0, line(0));
  EXPECT_EQ(content(), line(0).dump() + "\n");
  out.write(1, line(1));
  EXPECT_EQ(content(), line(0).dump() + "\n" + line(1).dump() + "\n" + line(2).dump() + "\n");
}

TEST_F(BatchOutputTest, WritesAsFinished) {
  BatchOutput out(path_, BatchOutput::Mode::kCreate, false);
  for (int64_t i : {0, 1}) out.expect(i);
  out.write(1, line(1));
  EXPECT_EQ(content(), line(1).dump() + "\n");
}

TEST_F(BatchOutputTest, ResumesBehindTheLastWholeLine) {
  write_file_atomically(path_, line(3).dump() + "\n" + line(0).dump() + "\n{\"id\": \"batch_re");
  BatchOutput out(path_, BatchOutput::Mode::kResume, false);
  EXPECT_TRUE(out.is_done(0));
  EXPECT_TRUE(out.is_done(3));
  EXPECT_FALSE(out.is_done(1));
  out.expect(1);
  out.write(1, line(1));
  EXPECT_EQ(content(), line(3).dump() + "\n" + line(0).dump() + "\n" + line(1).dump() + "\n");
}

TEST_F(BatchOutputTest, RefusesToOverwriteUnasked) {
  write_file_atomically(path_, "precious\n");
  EXPECT_THROW(BatchOutput(path_, BatchOutput::Mode::kCreate, true), IoError);
  EXPECT_THROW(BatchOutput(path_, BatchOutput::Mode::kResume, true), FormatError);
  EXPECT_EQ(content(), "precious\n");
  const BatchOutput out(path_, BatchOutput::Mode::kOverwrite, true);
  EXPECT_EQ(content(), "");
}

TEST_F(BatchOutputTest, ReportsAFullDisk) {
  BatchOutput out("/dev/full", BatchOutput::Mode::kOverwrite, false);
  out.expect(0);
  EXPECT_THROW(out.write(0, line(0)), IoError);
}

}  // namespace
}  // namespace nanoflow
