// The exposition format as Prometheus reads it, and vLLM's names.
#include "server/metrics.h"

#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

/// Samples by name and labels, after a check of every line's form.
std::map<std::string, double> samples_of(const std::string& text) {
  static const std::regex sample(
      R"re(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_]+="([^"\\]|\\.)*",?)*\}) ([-+0-9.eE]+|\+Inf|NaN))re");
  static const std::regex comment(
      R"re(# (HELP [a-zA-Z0-9_:]+ .+|TYPE [a-zA-Z0-9_:]+ (counter|gauge|histogram)))re");
  std::map<std::string, double> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (line.starts_with('#')) {
      EXPECT_TRUE(std::regex_match(line, comment)) << line;
      continue;
    }
    EXPECT_TRUE(std::regex_match(line, match, sample)) << line;
    const size_t end = line.rfind(' ');
    EXPECT_TRUE(samples.emplace(line.substr(0, end), std::stod(line.substr(end))).second)
        << "twice: " << line;
  }
  return samples;
}

constexpr const char* kLabels = "model_name=\"a\\\"b\",engine=\"0\"";

std::string name(const std::string& metric, const std::string& more = "") {
  return metric + "{" + kLabels + (more.empty() ? "" : "," + more) + "}";
}

TEST(Metrics, CountWhatHappenedUnderVllmsNames) {
  ServerMetrics metrics("a\"b");
  metrics.first_token(0.03);
  metrics.inter_token(0.2, 4);  // four tokens in one event
  metrics.request_finished({.ttft_s = 0.03,
                            .e2e_s = 1.2,
                            .prompt_tokens = 7,
                            .output_tokens = 5,
                            .max_tokens = 16,
                            .finished_reason = "stop"});
  metrics.http_answer(200);
  metrics.http_answer(404);
  EngineStats stats;
  stats.running = 2;
  stats.kv_pages_used = 1;
  stats.kv_pages_total = 4;
  stats.output_tokens = 9;
  const auto got = samples_of(metrics.prometheus(stats, {}, {}));
  EXPECT_EQ(got.at(name("vllm:num_requests_running")), 2);
  EXPECT_EQ(got.at(name("vllm:num_requests_waiting")), 0);
  EXPECT_EQ(got.at(name("vllm:kv_cache_usage_perc")), 0.25);
  EXPECT_EQ(got.at(name("vllm:generation_tokens_total")), 9);
  EXPECT_EQ(got.at(name("vllm:request_success_total", "finished_reason=\"stop\"")), 1);
  EXPECT_EQ(got.at(name("vllm:request_success_total", "finished_reason=\"abort\"")), 0);
  EXPECT_EQ(got.at(name("vllm:time_to_first_token_seconds_bucket", "le=\"0.02\"")), 0);
  EXPECT_EQ(got.at(name("vllm:time_to_first_token_seconds_bucket", "le=\"0.04\"")), 1);
  EXPECT_EQ(got.at(name("vllm:inter_token_latency_seconds_count")), 4);
  EXPECT_NEAR(got.at(name("vllm:inter_token_latency_seconds_sum")), 0.2, 1e-12);
  EXPECT_EQ(got.at(name("vllm:e2e_request_latency_seconds_bucket", "le=\"+Inf\"")), 1);
  EXPECT_EQ(got.at(name("vllm:request_prompt_tokens_sum")), 7);
  EXPECT_EQ(got.at(name("http_requests_total", "status=\"404\"")), 1);
}

TEST(Metrics, BucketsRiseAndEndAtTheCount) {
  ServerMetrics metrics("m");
  for (int i = 0; i < 1000; ++i) metrics.inter_token(0.0001 * i * i);
  const std::string text = metrics.prometheus({}, {}, {});
  double last = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("vllm:inter_token_latency_seconds_bucket")) continue;
    const double value = std::stod(line.substr(line.rfind(' ')));
    EXPECT_GE(value, last);
    last = value;
  }
  EXPECT_EQ(last, 1000);
}

TEST(Metrics, DeviceFiguresOnlyWhereTheyAreKnown) {
  const ServerMetrics metrics("m");
  EXPECT_EQ(metrics.prometheus({}, {}, {}).find("nanoflow:peak_flops"), std::string::npos);
  const std::string text = metrics.prometheus(
      {}, {}, {.peak_flops = 0.5, .kind_seconds = {{"gemm", 1.5}}, .energy_joules = 7});
  const auto got = samples_of(text);
  EXPECT_EQ(got.at("nanoflow:peak_flops{model_name=\"m\",engine=\"0\"}"), 0.5);
  EXPECT_EQ(got.at("nanoflow:step_seconds_total{model_name=\"m\",engine=\"0\",kind=\"gemm\"}"),
            1.5);
}

TEST(Metrics, CountFromManyThreads) {
  ServerMetrics metrics("m");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        metrics.inter_token(0.01);
        metrics.http_answer(200);
      }
    });
  for (std::thread& thread : threads) thread.join();
  const auto got = samples_of(metrics.prometheus({}, {}, {}));
  EXPECT_EQ(got.at("vllm:inter_token_latency_seconds_count{model_name=\"m\",engine=\"0\"}"), 20000);
  EXPECT_EQ(got.at("http_requests_total{model_name=\"m\",engine=\"0\",status=\"200\"}"), 20000);
}

}  // namespace
}  // namespace nanoflow
