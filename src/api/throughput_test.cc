// Synthetic workloads through an engine whose device is made of arrays.
#include "api/throughput.h"

#include <memory>

#include <gtest/gtest.h>

#include "engine/fake_runner.h"

namespace nanoflow {
namespace {

/// A second passes at each look, so that every turn of the run's loop is a sample.
class TickingClock final : public Clock {
 public:
  [[nodiscard]] int64_t now_ns() const override { return ticks_.fetch_add(1) * 1'000'000'000; }

 private:
  mutable std::atomic<int64_t> ticks_{0};
};

class ThroughputTest : public testing::Test {
 protected:
  void SetUp() override { start_engine(); }
  void start_engine() {
    EngineConfig config;
    config.max_num_batched_tokens = 64;
    config.max_num_seqs = 16;
    EngineLimits limits = fake::small_limits();
    limits.num_pages = 40;  // 160 tokens: two of the workload's requests at full length
    auto runner = std::make_unique<fake::FakeRunner>(limits, config.max_num_seqs);
    runner->on_launch = [this](const StepBatch& /*batch*/) { launched_ = true; };
    engine_ = std::make_unique<Engine>(config, std::move(runner), clock_, logger_);
  }
  static std::vector<WorkItem> workload(uint64_t count, int64_t output_len = 60) {
    std::vector<WorkItem> items;
    for (uint64_t i = 0; i < count; ++i) items.push_back({8, output_len, 0, i});
    return items;
  }

  std::atomic<bool> launched_{false};  // what an interrupted run takes as the interruption
  SteadyClock clock_;
  Logger logger_{LogLevel::kOff};
  std::unique_ptr<Engine> engine_;
};

TEST_F(ThroughputTest, WhatIsComputedAgainCountsOnce) {
  std::vector<WorkItem> items = workload(60, 4);  // admission learns that outputs are short
  const std::vector<WorkItem> longer = workload(24);
  items.insert(items.end(), longer.begin(), longer.end());
  const ThroughputResult result =
      run_throughput(*engine_, items, TickingClock(), false, [](int64_t) {});
  EXPECT_EQ(result.serving.requests(), 84);
  ASSERT_GT(result.preemptions, 0);
  EXPECT_EQ(result.recomputed_tokens, engine_->stats().recomputed_rows);
  // One row more at each preemption: the last sampled token comes back as a prompt's.
  EXPECT_LE(result.sampled_tokens, 60 * (8 + 4) + 24 * (8 + 60) + result.preemptions);
}

TEST_F(ThroughputTest, AnInterruptedRunComputedNothingAgain) {
  const ThroughputResult result =
      run_throughput(*engine_, workload(2), TickingClock(), launched_, [](int64_t) {});
  EXPECT_EQ(result.preemptions, 0);
  EXPECT_EQ(result.recomputed_tokens, 0);
}

}  // namespace
}  // namespace nanoflow
