// Plans of every family's real graphs, at the size of Llama-3-8B. That they compute the same bits
// is checked where models run (e2e/parity).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "pipeline/builtin_specs.h"
#include "pipeline/verify.h"
#include "planning.h"

namespace nanoflow {
namespace {

constexpr int kSms = 132;

TEST(ModelPlans, AreRightForEveryFamilySpecAndRankCount) {
  Planner planner;
  for (const std::string& family : supported_architectures()) {
    for (const int tp : {1, 2, 8}) {
      const OpGraph forward = build_forward_graph(large_config(family), tp, DType::kBF16);
      for (const std::string& name : builtin_spec_names()) {
        for (const int64_t rows : {1, 7, 2048}) {
          const Plan plan = planner.plan(forward, load_spec(name, forward), rows);
          EXPECT_EQ(verify(plan, forward, kSms), std::vector<std::string>())
              << family << ", " << name << ", tp " << tp << ", " << rows << " rows";
        }
      }
      const OpGraph sample = build_sample_graph(large_config(family), tp, DType::kBF16);
      const Plan plan = planner.plan(sample, sequential_spec(sample), 64);
      EXPECT_EQ(verify(plan, sample, kSms), std::vector<std::string>()) << family;
    }
  }
}

TEST(ModelPlans, NeedEachOfTheirWaits) {
  Planner planner;
  for (const std::string& family : supported_architectures()) {
    ModelConfig config = large_config(family);
    config.num_hidden_layers = 3;
    const OpGraph forward = build_forward_graph(config, 2, DType::kBF16);
    for (const char* name : {"overlap2", "overlap3"}) {
      const Plan plan = planner.plan(forward, load_spec(name, forward), 2048);
      for (size_t i = 0; i < plan.steps.size(); ++i) {
        for (size_t w = 0; w < plan.steps[i].waits.size(); ++w) {
          Plan damaged = plan;
          auto& waits = damaged.steps[i].waits;
          waits.erase(waits.begin() + static_cast<ptrdiff_t>(w));
          EXPECT_FALSE(verify(damaged, forward, kSms).empty()) << family << ", step " << i;
        }
      }
    }
  }
}

TEST(ModelPlans, AreLoweredInMilliseconds) {
  Planner planner;
  const OpGraph forward = build_forward_graph(large_config("LlamaForCausalLM"), 2, DType::kBF16);
  const PipelineSpec spec = overlapped_spec(forward, 3);
  double best_ms = 1e9;
  for (int run = 0; run < 5; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const Plan plan = planner.plan(forward, spec, 2048);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    best_ms = std::min(best_ms, time.count());
    EXPECT_EQ(plan.steps.size(), 1u + 32 * 2 * 12);
  }
  RecordProperty("best_us", static_cast<int>(best_ms * 1000));
  // 10 ms is the aim; debug and sanitizer builds on a busy machine get the rest.
  EXPECT_LT(best_ms, 500);
}

}  // namespace
}  // namespace nanoflow
