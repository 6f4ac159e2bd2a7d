// Any graph, any spec: lower() accepts exactly the legal orders, verify() agrees with it, no wait
// is superfluous, and what runs on threads equals the sequential walk bit for bit.
#include <gtest/gtest.h>

#include <optional>

#include "base/error.h"
#include "pipeline/executor.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/verify.h"
#include "random_plan.h"

namespace nanoflow::toy {
namespace {

constexpr int kLanes = 4;
constexpr int kSms = 100;
constexpr uint64_t kSeeds = 600;

/// What was seen over all seeds, so that the generators are known to produce interesting cases.
struct Seen {
  int legal = 0, illegal = 0, steps = 0, waits = 0, staged = 0;
};

/// A random graph and bucket, and one legal spec for it, unless its cuts can have none.
class RandomPlan {
 public:
  explicit RandomPlan(uint64_t seed)
      : random_(seed), graph_(random_graph(random_)), bucket_(random_.in(1, 70)) {}

  /// Compares lower()'s verdict on random orders with the definition; keeps the last legal one.
  void find_spec(Seen& seen) {
    spec_ = random_spec(random_, graph_.get(), kLanes);
    seen.staged += spec_.max_stage() > 0 ? 1 : 0;
    // Cutting an op that writes what other rows of it read is legal in no order.
    if (!agree_on_legality(seen)) return;
    has_spec_ = true;
    const auto size = static_cast<int64_t>(spec_.order.size());
    for (int64_t turns = size < 2 ? 0 : random_.in(0, 3 * size); turns > 0; --turns) {
      const auto at = spec_.order.begin() + random_.in(0, size - 2);
      std::iter_swap(at, at + 1);
      if (!agree_on_legality(seen)) std::iter_swap(at, at + 1);
    }
  }

  void run(Seen& seen) {
    const int64_t arena_bytes = lowered()->arena_bytes;
    const Plan plan = *lowered(arena_bytes);
    ASSERT_EQ(verify(plan, graph_.get(), kSms), std::vector<std::string>());
    for (uint64_t run = 1; run <= 3; ++run) {
      const int64_t live = random_.in(0, bucket_);
      memory_.header() = {.num_rows = static_cast<int32_t>(live),
                          .num_decode_rows = static_cast<int32_t>(random_.in(0, live))};
      memory_.reset(run);
      SequentialWalk(graph_.get(), memory_.environment(backend_, arena_bytes)).run();
      const auto want = memory_.results();
      memory_.reset(run);
      backend_.jitter = run;
      Executor(backend_).run(plan);
      backend_.synchronize();
      ASSERT_EQ(memory_.results(), want) << "run " << run;
    }
    seen.steps += static_cast<int>(plan.steps.size());
  }

  void drop_each_wait(Seen& seen) {
    const Plan plan = *lowered();
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      for (size_t w = 0; w < plan.steps[i].waits.size(); ++w, ++seen.waits) {
        Plan damaged = plan;
        auto& waits = damaged.steps[i].waits;
        waits.erase(waits.begin() + static_cast<ptrdiff_t>(w));
        ASSERT_FALSE(verify(damaged, graph_.get(), kSms).empty()) << "step " << i << ", wait " << w;
      }
    }
  }

  [[nodiscard]] bool has_spec() const { return has_spec_; }

 private:
  bool agree_on_legality(Seen& seen) {
    const bool legal = is_legal(graph_.get(), spec_, bucket_);
    ++(legal ? seen.legal : seen.illegal);
    EXPECT_EQ(lowered().has_value(), legal);
    return legal;
  }
  std::optional<Plan> lowered(int64_t arena_bytes = 0) {
    try {
      return lower(graph_.get(), spec_, memory_.environment(backend_, arena_bytes));
    } catch (const ConfigError&) {
      return std::nullopt;
    }
  }

  Random random_;
  Graph graph_;
  const int64_t bucket_;
  Memory memory_{graph_.get(), bucket_, {}};
  ThreadedBackend backend_{kLanes};
  PipelineSpec spec_;
  bool has_spec_ = false;
};

TEST(RandomPlans, EqualTheSequentialWalkAndNeedEachWait) {
  Seen seen;
  for (uint64_t seed = 0; seed < kSeeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomPlan plan(seed);
    plan.find_spec(seen);
    if (!plan.has_spec() || HasFailure()) continue;
    plan.run(seen);
    plan.drop_each_wait(seen);
  }
  EXPECT_GT(seen.legal, 4000);
  EXPECT_GT(seen.illegal, 2000);
  EXPECT_GT(seen.staged, 200);
  EXPECT_GT(seen.steps, 10000);
  EXPECT_GT(seen.waits, 5000);
  RecordProperty("legal", seen.legal);
  RecordProperty("illegal", seen.illegal);
  RecordProperty("steps", seen.steps);
  RecordProperty("waits", seen.waits);
}

}  // namespace
}  // namespace nanoflow::toy
