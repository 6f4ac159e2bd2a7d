// Every kind of damage to a right plan is reported.
#include "pipeline/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "pipeline/builtin_specs.h"
#include "pipeline/lower.h"
#include "pipeline/toy_backend.h"
#include "pipeline/toy_graph.h"

namespace nanoflow {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int64_t kRows = 8;
constexpr int kSms = 100;

class VerifyTest : public testing::Test {
 protected:
  Plan lowered(const PipelineSpec& spec) {
    return lower(graph.get(), spec, memory.environment(backend, 0));
  }
  std::vector<std::string> problems(const Plan& plan) const {
    return verify(plan, graph.get(), kSms);
  }
  std::vector<std::string> after(const std::function<void(Plan&)>& damage) {
    Plan plan = lowered(overlapped_spec(graph.get(), 3));
    EXPECT_THAT(problems(plan), IsEmpty());
    damage(plan);
    return problems(plan);
  }
  /// First step of `op` that begins at `row`.
  Step& find(Plan& plan, const std::string& op, int64_t row) const {
    for (Step& step : plan.steps)
      if (step.op == graph.get().find_op(op) && step.rows.begin == row) return step;
    NANO_CHECK(false, "no step of {}", op);
  }

  const toy::Graph graph = toy::layer_graph(3);
  toy::ThreadedBackend backend;
  toy::Memory memory{graph.get(), kRows, {.num_rows = kRows}};
  const size_t qkv = 2, attn = 3;  // symbols, as layer_graph() adds them
};

TEST_F(VerifyTest, EverySingleWaitIsNeeded) {
  for (const int lanes : {2, 3}) {
    const Plan plan = lowered(overlapped_spec(graph.get(), lanes));
    EXPECT_THAT(problems(plan), IsEmpty());
    int waits = 0;
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      for (size_t w = 0; w < plan.steps[i].waits.size(); ++w, ++waits) {
        Plan damaged = plan;
        damaged.steps[i].waits.erase(damaged.steps[i].waits.begin() + static_cast<ptrdiff_t>(w));
        EXPECT_FALSE(problems(damaged).empty()) << "step " << i << ", wait " << w;
      }
    }
    EXPECT_GT(waits, 10);
  }
}

TEST_F(VerifyTest, RangesMustTileTheBatch) {
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 4).rows = {5, 8};
              }),
              Contains(HasSubstr("a hole")));
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 4).rows = {3, 8};
              }),
              Contains(HasSubstr("an overlap")));
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 4).rows = {4, 7};
              }),
              Contains(HasSubstr("ends at row 7 of 8")));
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 4).rows = {4, 9};
              }),
              Contains(HasSubstr("rows outside [0, 8)")));
  EXPECT_THAT(after([&](Plan& p) { p.steps.pop_back(); }),
              Contains(HasSubstr("ends at row 4 of 8")));
  EXPECT_THAT(after([&](Plan& p) { p.steps.push_back(p.steps.back()); }),
              Contains(HasSubstr("an overlap")));
  EXPECT_THAT(after([&](Plan& p) { p.steps.clear(); }), Contains(HasSubstr("ends at row 0 of 8")));
}

TEST_F(VerifyTest, StepsMustExistInGraphAndPlan) {
  EXPECT_THAT(after([](Plan& p) { p.steps[3].op = 99; }), Contains(HasSubstr("has no op")));
  EXPECT_THAT(after([](Plan& p) { p.steps[3].layer = 3; }), Contains(HasSubstr("no such layer")));
  EXPECT_THAT(after([](Plan& p) { p.steps[3].layer = -1; }), Contains(HasSubstr("no such layer")));
  EXPECT_THAT(after([](Plan& p) { p.steps[3].lane = 3; }), Contains(HasSubstr("no lane 3")));
  EXPECT_THAT(after([](Plan& p) { p.num_lanes = -1; }), Contains(HasSubstr("-1 lanes")));
  EXPECT_THAT(after([](Plan& p) { p.steps[3].waits = {3}; }),
              Contains(HasSubstr("waits for step 3")));
  EXPECT_THAT(after([](Plan& p) { p.steps[3].waits = {-1}; }),
              Contains(HasSubstr("waits for step")));
  EXPECT_THAT(after([](Plan& p) {
                for (Step& step : p.steps) step.signals = false;
              }),
              Contains(HasSubstr("does not signal")));
  EXPECT_THAT(after([](Plan& p) { p.symbol_offset.pop_back(); }),
              Contains(HasSubstr("symbols are not placed")));
}

TEST_F(VerifyTest, OrderMustBeTheGraphs) {
  Plan plan = lowered(sequential_spec(graph.get()));
  std::swap(plan.steps[1], plan.steps[2]);
  EXPECT_THAT(problems(plan), Contains(HasSubstr("may run before")));
  plan = lowered(sequential_spec(graph.get()));
  std::swap(plan.steps[4].layer, plan.steps[9].layer);
  EXPECT_FALSE(problems(plan).empty()) << "two layers' ops exchanged";
  plan = lowered(sequential_spec(graph.get()));
  plan.steps[1].lane = 1;
  plan.num_lanes = 2;
  EXPECT_FALSE(problems(plan).empty()) << "a step moved to another lane loses its order";
}

TEST_F(VerifyTest, SymbolsMustNotShareBytes) {
  EXPECT_THAT(after([&](Plan& p) { p.symbol_offset[attn] = p.symbol_offset[qkv]; }),
              Contains(HasSubstr("uses the same bytes twice")));
  EXPECT_THAT(after([&](Plan& p) { p.symbol_offset[attn] = p.symbol_offset[qkv] + 8; }),
              Contains(HasSubstr("something else has")));
  EXPECT_THAT(after([&](Plan& p) { p.symbol_offset[attn] = p.arena_bytes; }),
              Contains(HasSubstr("outside the arena")));
  EXPECT_THAT(after([&](Plan& p) { p.symbol_offset[attn] = -8; }),
              Contains(HasSubstr("outside the arena")));
}

TEST_F(VerifyTest, SymbolsMayShareBytesInTurns) {
  // "qkv" is read for the last time by attn, "delta" is first written by o.
  Plan plan = lowered(sequential_spec(graph.get()));
  plan.symbol_offset[4] = plan.symbol_offset[qkv];
  EXPECT_THAT(problems(plan), IsEmpty());
  // With halves on lanes of their own the same sharing is a conflict that nobody waits for.
  EXPECT_FALSE(after([&](Plan& p) { p.symbol_offset[4] = p.symbol_offset[qkv]; }).empty());
}

TEST_F(VerifyTest, WorkspacesMustBeTheStepsOwn) {
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 0).workspace_bytes = 64;
                find(p, "o", 0).workspace_offset = p.symbol_offset[attn];
              }),
              Contains(HasSubstr("uses the same bytes twice")));
  EXPECT_THAT(after([&](Plan& p) {
                find(p, "o", 0).workspace_bytes = 64;
                find(p, "o", 0).workspace_offset = p.symbol_offset[qkv] + 64;
              }),
              Not(IsEmpty()));
  EXPECT_THAT(after([](Plan& p) {
                p.steps[0].workspace_bytes = 64;
                p.steps[0].workspace_offset = p.arena_bytes - 8;
              }),
              Contains(HasSubstr("workspace lies outside the arena")));
  // Two lanes' workspaces in one place.
  EXPECT_THAT(after([](Plan& p) {
                const int64_t offset = p.arena_bytes;
                p.arena_bytes += 64;
                for (Step& step : p.steps) {
                  step.workspace_bytes = 64;
                  step.workspace_offset = offset;
                }
              }),
              Contains(HasSubstr("may run before")));
}

TEST_F(VerifyTest, ReadsMustFindAValue) {
  toy::Graph graph_without_writer(1);
  const SymbolId x = graph_without_writer.symbol("x", SymbolSpace::kExternal);
  const SymbolId y = graph_without_writer.symbol("y");
  const SymbolId z = graph_without_writer.symbol("z");
  graph_without_writer.op(
      {.name = "a", .operands = {{x}, {y, Access::kWrite, Rows::kSame, Phase::kDecode}}});
  graph_without_writer.op({.name = "b", .operands = {{y}, {z, Access::kWrite}}});
  toy::Memory its_memory(graph_without_writer.get(), kRows, {});
  const Plan plan = lower(graph_without_writer.get(), sequential_spec(graph_without_writer.get()),
                          its_memory.environment(backend, 0));
  EXPECT_THAT(verify(plan, graph_without_writer.get(), kSms),
              Contains(HasSubstr("reads y where nothing has written it")))
      << "prefill rows of y are never written";
}

TEST_F(VerifyTest, HardBudgetsMustFitTheDevice) {
  PipelineSpec spec = overlapped_spec(graph.get(), 3);
  for (NanoOp& nano : spec.order) nano.sm = {.sms = 90};
  EXPECT_THAT(problems(lowered(spec)), IsEmpty()) << "soft budgets may overlap";
  for (NanoOp& nano : spec.order)
    nano.sm = {.sms = nano.lane == 0 ? 60 : 20, .kind = SmBudget::Kind::kHard};
  EXPECT_THAT(problems(lowered(spec)), IsEmpty());
  for (NanoOp& nano : spec.order)
    if (nano.op == "attn") nano.sm.sms = 21;
  EXPECT_THAT(problems(lowered(spec)), Contains(HasSubstr("hard budgets of 101 SMs")));
}

TEST_F(VerifyTest, CollectivesMustBeInOneOrder) {
  PipelineSpec spec = nano_batch_spec(graph.get(), 2);
  for (NanoOp& nano : spec.order) nano.lane = static_cast<LaneId>(nano.rows.begin);
  Plan plan = lowered(spec);
  EXPECT_THAT(problems(plan), IsEmpty());
  Step& second = find(plan, "all_reduce", 4);
  ASSERT_EQ(second.waits.size(), 1u) << "only the network joins it to the other half";
  second.waits.clear();
  EXPECT_THAT(problems(plan), Contains(HasSubstr("may meet in different orders")));
}

TEST_F(VerifyTest, ListsALimitedNumberOfProblems) {
  EXPECT_EQ(after([](Plan& p) {
              for (Step& step : p.steps) step.waits.clear();
            }).size(),
            20u);
}

}  // namespace
}  // namespace nanoflow
