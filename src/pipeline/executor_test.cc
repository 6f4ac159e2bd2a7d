#include "pipeline/executor.h"

#include <gtest/gtest.h>

#include "pipeline/builtin_specs.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"

namespace nanoflow {
namespace {

class ExecutorTest : public testing::Test {
 protected:
  Plan lowered(const PipelineSpec& spec) {
    const int64_t bytes = lower(graph.get(), spec, memory.environment(backend, 0)).arena_bytes;
    return lower(graph.get(), spec, memory.environment(backend, bytes));
  }

  const toy::Graph graph = toy::layer_graph(2);
  toy::ThreadedBackend backend;
  toy::Memory memory{graph.get(), 8, {.num_rows = 7, .num_decode_rows = 3}};
};

TEST_F(ExecutorTest, OneLaneNeedsNoEvents) {
  const Plan plan = lowered(sequential_spec(graph.get()));
  Executor(backend).run(plan);
  EXPECT_EQ(backend.log, std::vector<std::string>(10, "launch 0"));
}

TEST_F(ExecutorTest, ForksWaitsLaunchesRecordsAndJoins) {
  Plan plan = lowered(sequential_spec(graph.get()));
  plan.steps.resize(3);
  plan.num_lanes = 2;
  plan.steps[0].signals = true;
  plan.steps[1].lane = 1;
  plan.steps[1].waits = {0};
  plan.steps[1].signals = true;
  plan.steps[2].waits = {1};
  Executor executor(backend);
  executor.run(plan);
  const std::vector<std::string> want = {"record 0 3", "wait 1 3",                  // fork
                                         "launch 0",   "record 0 0",                // step 0
                                         "wait 1 0",   "launch 1",   "record 1 1",  // step 1
                                         "wait 0 1",   "launch 0",                  // step 2
                                         "record 1 4", "wait 0 4"};                 // join
  EXPECT_EQ(backend.log, want);
  backend.synchronize();
  executor.run(plan);  // events are reused
  EXPECT_EQ(backend.log[want.size()], "record 0 3");
}

TEST_F(ExecutorTest, PlansOfDecodesLeaveOutWhatWorksOnPrefillsAlone) {
  Plan plan = lowered(sequential_spec(graph.get()));
  plan.steps.resize(4);
  PagedAttentionArgs prefill;
  prefill.phase = Phase::kPrefill;
  plan.steps[1].args = prefill;
  plan.steps[1].signals = true;  // whoever waits for it still finds its event
  plan.steps[3].waits = {1};
  plan.decode_only = true;
  Executor(backend).run(plan);
  EXPECT_EQ(backend.log, (std::vector<std::string>{"launch 0", "record 0 1", "launch 0", "wait 0 1",
                                                   "launch 0"}));
}

TEST_F(ExecutorTest, ReplaysWhatItCaptured) {
  toy::SequentialWalk(graph.get(), memory.environment(backend, 0)).run();
  const auto want = memory.results();
  const Plan plan = lowered(overlapped_spec(graph.get(), 3));
  Executor executor(backend);
  memory.reset(1);
  const auto before = memory.results();
  const GraphId captured = executor.capture(plan);
  backend.synchronize();
  EXPECT_EQ(memory.results(), before) << "capturing runs nothing";
  for (uint64_t run = 1; run <= 3; ++run) {
    memory.reset(run);
    backend.replay(captured);
    backend.synchronize();
    EXPECT_EQ(memory.results(), want);
  }
}

TEST_F(ExecutorTest, StampsSurroundEveryStepAndFollowItsWaits) {
  const Plan plan = lowered(overlapped_spec(graph.get(), 3));
  std::vector<StampId> stamps;
  for (size_t i = 0; i < 2 * plan.steps.size(); ++i) stamps.push_back(backend.create_stamp());
  Executor executor(backend);
  const GraphId plain = executor.capture(plan);
  const size_t calls = backend.log.size();
  const GraphId timed = executor.capture(plan, stamps);
  EXPECT_EQ(backend.log.size(), 2 * calls + stamps.size()) << "nothing else is added";
  for (uint64_t run = 1; run <= 3; ++run) {
    backend.replay(plain);
    backend.synchronize();
    const int64_t before = backend.elapsed_ns(stamps[0], stamps[1]);
    backend.replay(plain);
    backend.synchronize();
    EXPECT_EQ(backend.elapsed_ns(stamps[0], stamps[1]), before) << "a plain replay reads no clock";
    backend.replay(timed);
    backend.synchronize();
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      EXPECT_GT(backend.elapsed_ns(stamps[2 * i], stamps[2 * i + 1]), 0) << i;
      for (const StepId earlier : plan.steps[i].waits)
        EXPECT_GT(backend.elapsed_ns(stamps[2 * static_cast<size_t>(earlier) + 1], stamps[2 * i]),
                  0)
            << earlier << " before " << i;
    }
  }
}

TEST_F(ExecutorTest, PlansWithoutMemoryDoNotRun) {
  const Plan plan =
      lower(graph.get(), sequential_spec(graph.get()), memory.environment(backend, 0));
  EXPECT_DEATH(Executor(backend).run(plan), "lowered without memory");
}

}  // namespace
}  // namespace nanoflow
