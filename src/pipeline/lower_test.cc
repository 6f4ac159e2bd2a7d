#include "pipeline/lower.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "pipeline/builtin_specs.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"

namespace nanoflow {
namespace {

constexpr int64_t kRows = 8;

class LowerTest : public testing::Test {
 protected:
  Plan lowered(const PipelineSpec& spec) {
    return lower(graph.get(), spec, memory.environment(backend, 0));
  }
  std::string error_of(const PipelineSpec& spec) {
    try {
      (void)lowered(spec);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "accepted";
  }
  /// "op layer [rows) lane", and the steps that it waits for.
  std::string describe(const Plan& plan, size_t i) const {
    const Step& step = plan.steps[i];
    std::string text =
        fmt::format("{} {} [{}, {}) lane {}", graph.get().nodes[static_cast<size_t>(step.op)].name,
                    step.layer, step.rows.begin, step.rows.end, step.lane);
    for (const StepId wait : step.waits) text += fmt::format(" after {}", wait);
    return text;
  }

  const toy::Graph graph = toy::layer_graph(2);
  toy::ThreadedBackend backend;
  toy::Memory memory{graph.get(), kRows, {.num_rows = kRows}};
};

TEST_F(LowerTest, SequentialSpecIsTheGraphUnrolled) {
  const Plan plan = lowered(sequential_spec(graph.get()));
  ASSERT_EQ(plan.steps.size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(plan.steps[i].op, static_cast<OpId>(i % 5));
    EXPECT_EQ(plan.steps[i].layer, static_cast<int>(i / 5));
    EXPECT_EQ(plan.steps[i].rows, (RowRange{0, kRows}));
    EXPECT_TRUE(plan.steps[i].waits.empty());
    EXPECT_FALSE(plan.steps[i].signals);
  }
}

TEST_F(LowerTest, WaitsAreDerivedAndMinimal) {
  PipelineSpec spec = sequential_spec(graph.get());
  spec.order[1].lane = 1;  // attention beside everything else
  const Plan plan = lowered(spec);
  EXPECT_EQ(describe(plan, 1), "attn 0 [0, 8) lane 1 after 0");
  EXPECT_EQ(describe(plan, 2), "o 0 [0, 8) lane 0 after 1");
  EXPECT_EQ(describe(plan, 3), "all_reduce 0 [0, 8) lane 0") << "lane order is enough";
  // Layer 1 overwrites what layer 0's attention read; "o" has waited for that already.
  EXPECT_EQ(describe(plan, 5), "qkv 1 [0, 8) lane 0");
  EXPECT_EQ(describe(plan, 6), "attn 1 [0, 8) lane 1 after 5");
  EXPECT_TRUE(plan.steps[0].signals);
  EXPECT_FALSE(plan.steps[3].signals);
}

TEST_F(LowerTest, RowsThatDoNotMeetNeedNoOrder) {
  PipelineSpec spec = nano_batch_spec(graph.get(), 2);
  for (NanoOp& nano : spec.order) nano.lane = static_cast<LaneId>(nano.rows.begin);
  const Plan plan = lowered(spec);
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    const std::string& op = graph.get().nodes[static_cast<size_t>(step.op)].name;
    // The second half's attention looks back to the first half's cache rows; collectives are one
    // after the other. Nothing else joins the halves, not even the next layer's use of one symbol.
    const bool joined = (op == "attn" && step.rows.begin > 0) || op == "all_reduce";
    EXPECT_EQ(step.waits.empty(), !joined || i == 6) << describe(plan, i);
  }
}

TEST_F(LowerTest, StagesBecomePrologueAndEpilogue) {
  PipelineSpec spec = sequential_spec(graph.get());
  std::rotate(spec.order.begin(), spec.order.begin() + 2, spec.order.end());
  spec.order[3].stage = spec.order[4].stage = 1;  // qkv and attn of the next layer
  const Plan plan = lowered(spec);
  const Plan plain = lowered(sequential_spec(graph.get()));
  ASSERT_EQ(plan.steps.size(), plain.steps.size());
  for (size_t i = 0; i < plan.steps.size(); ++i)
    EXPECT_EQ(describe(plan, i), describe(plain, i)) << "this rotation changes no order";
}

TEST_F(LowerTest, StartHintsReferToStepsThatWereIssued) {
  PipelineSpec spec = sequential_spec(graph.get());
  spec.order[0].after_start = {1};  // qkv after the last layer's attention
  spec.order[2].after_start = {0, 1};
  const Plan plan = lowered(spec);
  EXPECT_TRUE(plan.steps[0].after_start.empty());
  EXPECT_EQ(plan.steps[2].after_start, (std::vector<StepId>{0, 1}));
  EXPECT_EQ(plan.steps[5].after_start, std::vector<StepId>{1});
  EXPECT_EQ(plan.steps[7].after_start, (std::vector<StepId>{5, 6}));
}

TEST_F(LowerTest, RefusesOrdersAgainstTheGraph) {
  PipelineSpec spec = sequential_spec(graph.get());
  std::swap(spec.order[1], spec.order[2]);
  EXPECT_EQ(
      error_of(spec),
      "pipeline: toy, sequential: o of layer 0, rows [0, 8) is issued before attn of layer 0, "
      "rows [0, 8), on which it depends");
}

TEST_F(LowerTest, RefusesWhatDoesNotFitTheGraphOrTheDevice) {
  const PipelineSpec good = nano_batch_spec(graph.get(), 2);
  const auto with = [&](auto change) {
    PipelineSpec spec = good;
    change(spec);
    return error_of(spec);
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  std::string error = with([](PipelineSpec& s) { s.order[3].op = "attention"; });
  EXPECT_TRUE(contains(error, "order[3]: the model has no layer op \"attention\"")) << error;
  error = with([](PipelineSpec& s) { s.order.erase(s.order.begin()); });
  EXPECT_TRUE(contains(error, "\"qkv\" leave a hole or overlap at row 0")) << error;
  error = with([](PipelineSpec& s) { s.order.erase(s.order.begin() + 1); });
  EXPECT_TRUE(contains(error, "\"qkv\" end at row 1")) << error;
  error = with([](PipelineSpec& s) { s.order[1].rows = {0, 2}; });
  EXPECT_TRUE(contains(error, "hole or overlap")) << error;
  error = with([](PipelineSpec& s) { s.order.push_back(s.order[0]); });
  EXPECT_TRUE(contains(error, "hole or overlap")) << error;
  error = with([](PipelineSpec& s) { s.order.clear(); });
  EXPECT_TRUE(contains(error, "\"qkv\" end at row 0")) << error;
  error = with([](PipelineSpec& s) { s.order[0].lane = 4; });
  EXPECT_TRUE(contains(error, "needs 5 lanes, the device has 4")) << error;
  backend.supported = false;
  EXPECT_TRUE(contains(error_of(good), "the device cannot compute \"qkv\"")) << error_of(good);
}

TEST_F(LowerTest, UncuttableOpsAndGroupsAreRespected) {
  toy::Graph strict(1);
  const SymbolId x = strict.symbol("x", SymbolSpace::kExternal);
  const SymbolId y = strict.symbol("y");
  strict.op({.name = "a", .operands = {{x}, {y, Access::kWrite}}, .split = SplitBy::kNone});
  strict.op({.name = "b", .operands = {{y, Access::kReadWrite}}, .align_group = 0});
  strict.op({.name = "c", .operands = {{x, Access::kReadWrite}, {y}}, .align_group = 0});
  const auto error = [&](const PipelineSpec& spec) -> std::string {
    try {
      (void)lower(strict.get(), spec, toy::Memory(strict.get(), 4, {}).environment(backend, 0));
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "accepted";
  };
  const NanoOp a{.op = "a", .rows = {0, 2}}, b{.op = "b", .rows = {0, 2}},
      c{.op = "c", .rows = {0, 2}};
  const auto halves = [](NanoOp nano) {
    NanoOp first = nano, second = nano;
    first.rows = {0, 1};
    second.rows = {1, 2};
    return std::pair(first, second);
  };
  EXPECT_EQ(error({.key = {.rows = 2}, .order = {a, b, c}}), "accepted");
  const auto [a0, a1] = halves(a);
  EXPECT_NE(error({.key = {.rows = 2}, .order = {a0, a1, b, c}}).find("\"a\" may not be cut"),
            std::string::npos);
  const auto [b0, b1] = halves(b);
  const auto [c0, c1] = halves(c);
  EXPECT_NE(error({.key = {.rows = 2}, .order = {a, b0, b1, c}})
                .find("\"b\" and \"c\" must be cut at the same rows"),
            std::string::npos);
  EXPECT_EQ(error({.key = {.rows = 2}, .order = {a, b0, b1, c0, c1}}), "accepted");
}

TEST_F(LowerTest, WorkspacesAreOnePerLane) {
  const Plan plan = lowered(overlapped_spec(graph.get(), 3));
  for (const Step& a : plan.steps) {
    EXPECT_LE(a.workspace_offset + a.workspace_bytes, plan.arena_bytes);
    for (const Step& b : plan.steps)
      if (a.lane != b.lane && a.workspace_bytes > 0 && b.workspace_bytes > 0) {
        EXPECT_TRUE(a.workspace_offset + a.workspace_bytes <= b.workspace_offset ||
                    b.workspace_offset + b.workspace_bytes <= a.workspace_offset);
      }
  }
}

}  // namespace
}  // namespace nanoflow
