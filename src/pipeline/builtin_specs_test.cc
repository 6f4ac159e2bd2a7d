#include "pipeline/builtin_specs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/test_folder.h"
#include "pipeline/happens_before.h"
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

/// What may run at the same time as step `i` of the plan: neither is ordered before the other.
std::set<std::string> beside(const Plan& plan, const OpGraph& graph, size_t i) {
  const HappensBefore before(plan);
  std::set<std::string> names;
  for (size_t j = 0; j < plan.steps.size(); ++j) {
    const Step& step = plan.steps[j];
    if (j != i && !before(i, j) && !before(j, i))
      names.insert(fmt::format("{} {} {}", graph.nodes[static_cast<size_t>(step.op)].name,
                               step.layer, step.rows.begin == 0 ? "A" : "B"));
  }
  return names;
}

// In the steady state, with halves A and B.
TEST(BuiltinSpecs, OverlapHidesAttentionAndCollectives) {
  const toy::Graph toy = toy::layer_graph(4);
  const OpGraph& graph = toy.get();
  toy::ThreadedBackend backend;
  toy::Memory memory(graph, 8, {});
  const Plan plan = lower(graph, overlapped_spec(graph, 3), memory.environment(backend, 0));
  const auto beside_op = [&](const std::string& op, int layer, int64_t row) {
    for (size_t i = 0; i < plan.steps.size(); ++i)
      if (plan.steps[i].op == graph.find_op(op) && plan.steps[i].layer == layer &&
          plan.steps[i].rows.begin == row)
        return beside(plan, graph, i);
    return std::set<std::string>();
  };
  EXPECT_THAT(beside_op("attn", 2, 4), testing::IsSupersetOf({"all_reduce 2 A", "ffn 2 A"}));
  EXPECT_THAT(beside_op("attn", 2, 0), testing::IsSupersetOf({"all_reduce 1 B", "ffn 1 B"}));
  EXPECT_THAT(beside_op("all_reduce", 2, 0), testing::IsSupersetOf({"qkv 2 B", "attn 2 B"}));
  EXPECT_THAT(beside_op("all_reduce", 2, 4), testing::IsSupersetOf({"qkv 3 A", "attn 3 A"}));
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
  const TestFolder folder;
  const auto path = folder / "overlap2.json";
  write_spec(path, overlapped_spec(graph.get(), 2));
  EXPECT_EQ(load_spec(path.string(), graph.get()), overlapped_spec(graph.get(), 2));
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
