// The example of the architecture document: five ops, six layers, two nano-batches, three lanes.
#include <gtest/gtest.h>

#include "pipeline/builtin_specs.h"
#include "pipeline/executor.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"
#include "pipeline/verify.h"

namespace nanoflow {
namespace {

TEST(Prototype, EqualsTheSequentialWalkInEveryRun) {
  const toy::Graph graph = toy::layer_graph(6);
  toy::ThreadedBackend backend(3);
  toy::Memory memory(graph.get(), 10, {});
  const PipelineSpec spec = overlapped_spec(graph.get(), 3);
  const int64_t bytes = lower(graph.get(), spec, memory.environment(backend, 0)).arena_bytes;
  const Plan plan = lower(graph.get(), spec, memory.environment(backend, bytes));
  EXPECT_EQ(plan.steps.size(), 60u);
  EXPECT_EQ(verify(plan, graph.get(), 100), std::vector<std::string>());

  Executor executor(backend);
  for (uint64_t run = 1; run <= 200; ++run) {
    memory.header() = {.num_rows = static_cast<int32_t>(run % 11),
                       .num_decode_rows = static_cast<int32_t>(run % 11 * (run % 5) / 5)};
    memory.reset(run);
    toy::SequentialWalk(graph.get(), memory.environment(backend, bytes)).run();
    const auto want = memory.results();
    memory.reset(run);
    backend.jitter = run;
    executor.run(plan);
    backend.synchronize();
    ASSERT_EQ(memory.results(), want) << "run " << run;
  }
}

TEST(Prototype, NeedsEachOfItsWaits) {
  const toy::Graph graph = toy::layer_graph(6);
  toy::ThreadedBackend backend(3);
  toy::Memory memory(graph.get(), 10, {});
  const Plan plan =
      lower(graph.get(), overlapped_spec(graph.get(), 3), memory.environment(backend, 0));
  int waits = 0;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    for (size_t w = 0; w < plan.steps[i].waits.size(); ++w, ++waits) {
      Plan damaged = plan;
      damaged.steps[i].waits.erase(damaged.steps[i].waits.begin() + static_cast<ptrdiff_t>(w));
      EXPECT_FALSE(verify(damaged, graph.get(), 100).empty()) << "step " << i << ", wait " << w;
    }
  }
  RecordProperty("waits", waits);
  EXPECT_GT(waits, 30);
}

}  // namespace
}  // namespace nanoflow
