// Runs the overlapped toy plan on lanes that are threads: `pipeline_race [--drop-waits]`. Under
// ThreadSanitizer the plan must be silent, and without its waits it must not be.
#include <cstdio>
#include <string_view>

#include "pipeline/builtin_specs.h"
#include "pipeline/executor.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"

int main(int argc, char** argv) {
  using namespace nanoflow;  // NOLINT: this file is one function
  const toy::Graph graph = toy::layer_graph(6);
  toy::ThreadedBackend backend;
  toy::Memory memory(graph.get(), 8, {.num_rows = 8, .num_decode_rows = 3});
  toy::SequentialWalk(graph.get(), memory.environment(backend, 0)).run();
  const auto want = memory.results();

  const PipelineSpec spec = overlapped_spec(graph.get(), 3);
  const int64_t bytes = lower(graph.get(), spec, memory.environment(backend, 0)).arena_bytes;
  const Plan plan = lower(graph.get(), spec, memory.environment(backend, bytes));
  backend.drop_waits = argc > 1 && std::string_view(argv[1]) == "--drop-waits";
  int wrong = 0;
  for (uint64_t run = 1; run <= 50; ++run) {
    memory.reset(run);
    backend.jitter = run;
    Executor(backend).run(plan);
    backend.synchronize();
    if (memory.results() != want) ++wrong;
  }
  std::printf("%d of 50 runs differ from the sequential walk\n", wrong);
  return wrong == 0 ? 0 : 1;
}
