// Figures of a load test against what numpy and vLLM's definitions give for the same records.
#include "client/load_result.h"

#include <cmath>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

RequestRecord record(double ttft_s, std::vector<float> gaps, int64_t output_tokens = -1) {
  RequestRecord r;
  r.is_finished = true;
  r.ttft_s = r.latency_s = ttft_s;
  for (const float gap : gaps) r.latency_s += static_cast<double>(gap);
  r.itls_s = std::move(gaps);
  r.prompt_tokens = 10;
  r.output_tokens = output_tokens;
  return r;
}

LoadResult three_requests() {
  LoadResult result;
  result.records = {record(0.1F, {0.25F, 0.25F}), record(0.3F, {0.5F}, 5), record(9, {})};
  result.records[2].error = "refused";
  result.records.emplace_back();  // cut off
  result.duration_s = 2;
  result.peak_concurrency = 3;
  result.chunks_per_s = {2, 3};
  return result;
}

TEST(LoadResult, CountsWhatWasServed) {
  ReportOptions options{.goodput_ms = {{"ttft", 200}}, .request_rate = HUGE_VAL};
  const Json json = result_json(three_requests(), options, true);
  EXPECT_EQ(json.find("completed")->as_int(), 2);
  EXPECT_EQ(json.find("failed")->as_int(), 1);
  EXPECT_EQ(json.find("total_input_tokens")->as_int(), 20);
  EXPECT_EQ(json.find("total_output_tokens")->as_int(), 3 + 5);
  EXPECT_DOUBLE_EQ(json.find("output_throughput")->as_double(), 4);
  EXPECT_DOUBLE_EQ(json.find("request_goodput")->as_double(), 0.5);
  EXPECT_NEAR(json.find("mean_ttft_ms")->as_double(), 200, 1e-4);
  EXPECT_NEAR(json.find("mean_tpot_ms")->as_double(), (250 + 125) / 2.0, 1e-4);
  EXPECT_NEAR(json.find("mean_itl_ms")->as_double(), 1000 / 3.0, 1e-4);
  EXPECT_NEAR(json.find("std_ttft_ms")->as_double(), 100, 1e-4);
  EXPECT_NE(json.find("p99_itl_ms"), nullptr);
  EXPECT_EQ(json.find("mean_e2el_ms"), nullptr) << "not asked for";
  ASSERT_EQ(json.find("errors")->as_array().size(), 3u);
  EXPECT_EQ(json.find("errors")->as_array()[2].as_string(), "refused");
}

TEST(LoadResult, BlockHasVllmsLayout) {
  const std::string block = result_block(three_requests(), {.request_rate = HUGE_VAL});
  EXPECT_TRUE(
      block.starts_with("============ Serving Benchmark Result ============\n"
                        "Successful requests:                     2         \n"
                        "Failed requests:                         1         \n"
                        "Benchmark duration (s):                  2.00      \n"))
      << block;
  EXPECT_NE(block.find("---------------Time to First Token----------------\n"
                       "Mean TTFT (ms):                          200.00    \n"),
            std::string::npos)
      << block;
  EXPECT_NE(block.find("P99 ITL (ms):"), std::string::npos);
  EXPECT_TRUE(block.ends_with("\n" + std::string(50, '=') + "\n"));
}

TEST(LoadResult, NothingServedIsNoFault) {
  EXPECT_EQ(result_json({}, {}, true).find("completed")->as_int(), 0);
  EXPECT_NE(result_block({}, {}).find("Mean TTFT (ms):                          0.00"),
            std::string::npos);
}

}  // namespace
}  // namespace nanoflow
