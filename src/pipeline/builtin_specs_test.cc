#include "pipeline/builtin_specs.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"
#include "pipeline/verify.h"

namespace nanoflow {
namespace {

TEST(BuiltinSpecs, LowerAndVerifyInEveryBucket) {
  const toy::Graph graph = toy::layer_graph(3);
  toy::ThreadedBackend backend;
  for (const int64_t rows : {1, 2, 3, 5, 64, 65, 100, 2048}) {
    for (const std::string& name : builtin_spec_names()) {
      toy::Memory memory(graph.get(), rows, {});
      const Plan plan =
          lower(graph.get(), load_spec(name, graph.get()), memory.environment(backend, 0));
      EXPECT_EQ(verify(plan, graph.get(), 100), std::vector<std::string>()) << name << ", " << rows;
    }
  }
}

TEST(BuiltinSpecs, OverlapPutsOneHalfsAttentionBesideTheOthersFeedForward) {
  const toy::Graph graph = toy::layer_graph(4);
  toy::ThreadedBackend backend;
  toy::Memory memory(graph.get(), 8, {});
  const PipelineSpec spec = overlapped_spec(graph.get(), 3);
  EXPECT_EQ(spec.num_lanes(), 3);
  const Plan plan = lower(graph.get(), spec, memory.environment(backend, 0));
  // In the steady state no attention of one half waits for an op of the other half's GEMMs.
  const OpId attn = graph.get().find_op("attn");
  for (const Step& step : plan.steps) {
    if (step.op != attn) continue;
    EXPECT_EQ(step.lane, 1);
    for (const StepId wait : step.waits)
      EXPECT_EQ(plan.steps[static_cast<size_t>(wait)].op, graph.get().find_op("qkv"));
  }
}

TEST(BuiltinSpecs, NeedAttentionToOverlap) {
  toy::Graph graph(1);
  const SymbolId x = graph.symbol("x", SymbolSpace::kExternal);
  graph.op({.name = "a", .operands = {{x, Access::kReadWrite}}});
  EXPECT_THROW((void)overlapped_spec(graph.get(), 2), ConfigError);
}

TEST(LoadSpec, TakesANameOrAFile) {
  const toy::Graph graph = toy::layer_graph(1);
  EXPECT_EQ(load_spec("nanobatch4", graph.get()), nano_batch_spec(graph.get(), 4));
  const auto path = std::filesystem::temp_directory_path() / "nanoflow_builtin_specs_test.json";
  write_spec(path, overlapped_spec(graph.get(), 2));
  EXPECT_EQ(load_spec(path.string(), graph.get()), overlapped_spec(graph.get(), 2));
  std::filesystem::remove(path);
  try {
    (void)load_spec("overlap9", graph.get());
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("overlap9 is neither a file nor one of sequential"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace nanoflow
