#include "base/progress.h"

#include <algorithm>
#include <cstdlib>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

/// What a bar writes to something that is no terminal.
class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { out_ = ::open_memstream(&text_, &size_); }
  void TearDown() override {
    if (out_ != nullptr) std::fclose(out_);
    std::free(text_);
  }
  std::string written() {
    std::fflush(out_);
    return {text_, size_};
  }

  ManualClock clock_;
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* out_ = nullptr;
};

TEST_F(ProgressTest, ShowsShareRateAndTimeLeft) {
  ProgressBar bar("Serving", 100, ProgressBar::Unit::kCount, out_, clock_);
  bar.set(0);
  clock_.advance_ns(10'000'000'000);
  bar.set(25);
  EXPECT_EQ(bar.line(200), "Serving  [#####...............]  25 %  25/100  2.5/s  ETA 00:30");
  EXPECT_EQ(bar.line(7), "Serving");
}

TEST_F(ProgressTest, WorkOfAnEarlierRunDoesNotCountForTheRate) {
  ProgressBar bar("Pull", 4096, ProgressBar::Unit::kBytes, out_, clock_);
  bar.set(2048);
  clock_.advance_ns(1'000'000'000);
  bar.set(3072);
  EXPECT_EQ(bar.line(200),
            "Pull  [###############.....]  75 %  3.0 KiB/4.0 KiB  1.0 KiB/s  ETA 00:01");
}

TEST_F(ProgressTest, WritesPlainLinesRarely) {
  {
    ProgressBar bar("X", 10, ProgressBar::Unit::kCount, out_, clock_);
    for (int i = 0; i < 5; ++i) bar.set(i);
    EXPECT_EQ(written(), "");
    clock_.advance_ns(11'000'000'000);
    bar.set(5);
    const std::string once = written();
    EXPECT_EQ(std::count(once.begin(), once.end(), '\n'), 1);
    EXPECT_EQ(once.find('\r'), std::string::npos);
  }
  const std::string all = written();
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 2);
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(83), "01:23");
  EXPECT_EQ(format_duration(3723), "1:02:03");
}

}  // namespace
}  // namespace nanoflow
