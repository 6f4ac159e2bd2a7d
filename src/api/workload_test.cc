#include "api/workload.h"

#include <cmath>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

class WorkloadTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    write_file_atomically(folder_ / "trace.csv", text);
    return folder_ / "trace.csv";
  }

 private:
  const TestFolder folder_;
};

TEST_F(WorkloadTest, ConstantLengthsArriveAtOnce) {
  const auto items = make_workload({.num_requests = 3, .input_len = 7, .output_len = 5}, 12);
  ASSERT_EQ(items.size(), 3u);
  for (const WorkItem& item : items) {
    EXPECT_EQ(item.input_len, 7);
    EXPECT_EQ(item.output_len, 5);
    EXPECT_EQ(item.arrival_s, 0);
  }
  EXPECT_NE(items[0].prompt_seed, items[1].prompt_seed);
}

TEST_F(WorkloadTest, SeedDecidesEverything) {
  const WorkloadOptions options{
      .num_requests = 50, .range_ratio = 0.5, .request_rate = 10, .seed = 3};
  const auto a = make_workload(options, 4096);
  const auto b = make_workload(options, 4096);
  WorkloadOptions other = options;
  other.seed = 4;
  const auto c = make_workload(other, 4096);
  int differing = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].input_len, b[i].input_len);
    EXPECT_EQ(a[i].prompt_seed, b[i].prompt_seed);
    EXPECT_GE(a[i].input_len, 256);
    EXPECT_LE(a[i].input_len, 768);
    differing += a[i].input_len != c[i].input_len ? 1 : 0;
  }
  EXPECT_GT(differing, 25);
}

TEST_F(WorkloadTest, PoissonGapsHaveTheAskedMean) {
  const auto items = make_workload({.num_requests = 20000, .request_rate = 50}, 4096);
  EXPECT_NEAR(items.back().arrival_s, 20000 / 50.0, 4 * std::sqrt(20000.0) / 50);
}

TEST_F(WorkloadTest, ReadsBothTraceHeaders) {
  const auto rows = read_length_trace(write("input_len,output_len\n10,2\r\n3,4\n"));
  EXPECT_EQ(rows, (std::vector<std::pair<int64_t, int64_t>>{{10, 2}, {3, 4}}));
  EXPECT_EQ(read_length_trace(write("TIMESTAMP,ContextTokens,GeneratedTokens\nx,5,6\n")).front(),
            (std::pair<int64_t, int64_t>{5, 6}));
}

TEST_F(WorkloadTest, RefusesBadTraces) {
  for (const char* text : {"", "a,b\n1,2\n", "input_len,output_len\n", "input_len,output_len\n1\n",
                           "input_len,output_len\n1,x\n", "input_len,output_len\n-1,3\n",
                           "input_len,output_len\n99999999999999999999,3\n"})
    EXPECT_THROW(read_length_trace(write(text)), FormatError) << text;
}

TEST_F(WorkloadTest, TraceRowsInOrderAndFitting) {
  const auto path = write("input_len,output_len\n10,2\n90,20\n3,4\n");
  const auto items = make_workload({.trace = path, .trace_in_order = true}, 100);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].input_len, 10);
  EXPECT_EQ(items[1].input_len, 3);
  EXPECT_THROW(make_workload({.trace = path}, 5), ConfigError);
}

// Lengths whose sum overflows once passed the check and aborted the program.
TEST_F(WorkloadTest, RefusesWhatDoesNotFitOrMakesNoSense) {
  const auto refused = [](const WorkloadOptions& options, const char* name) {
    try {
      (void)make_workload(options, 4096);
      ADD_FAILURE() << name << " was taken";
    } catch (const ConfigError& e) {
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
    }
  };
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  refused({.input_len = INT64_MAX, .output_len = 512}, "--input-len");
  refused({.input_len = INT64_MAX, .output_len = INT64_MAX}, "--output-len");
  refused({.input_len = 4000, .output_len = 97}, "--input-len");
  refused({.input_len = 0}, "--input-len");
  refused({.output_len = -3}, "--output-len");
  refused({.num_requests = INT64_MAX}, "--num-requests");
  refused({.num_requests = -1}, "--num-requests");
  refused({.range_ratio = kNan}, "--range-ratio");
  refused({.range_ratio = 1}, "--range-ratio");
  refused({.request_rate = kNan}, "--request-rate");
  refused({.request_rate = HUGE_VAL}, "--request-rate");
}

TEST_F(WorkloadTest, TraceRowsWhoseSumOverflowsDoNotFit) {
  const auto path = write("input_len,output_len\n9223372036854775807,9223372036854775807\n3,4\n");
  const auto items = make_workload({.num_requests = 2, .trace = path}, 100);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].input_len, 3);
}

TEST_F(WorkloadTest, PromptsAvoidForbiddenIds) {
  const std::vector<int32_t> ids = random_prompt({.input_len = 1000, .prompt_seed = 9}, 5, {2, 3});
  ASSERT_EQ(ids.size(), 1000u);
  for (const int32_t id : ids) EXPECT_TRUE(id == 0 || id == 1 || id == 4);
}

}  // namespace
}  // namespace nanoflow
