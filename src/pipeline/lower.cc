#include "pipeline/lower.h"

#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "pipeline/dependencies.h"
#include "tensor/buffer.h"

namespace nanoflow {
namespace {

/// Names of one step resolved to memory.
class StepBinder final : public Binder {
 public:
  StepBinder(const OpGraph& graph, const BindEnvironment& environment, const Plan& plan)
      : graph_(graph), environment_(environment), plan_(plan) {}

  void set(int layer, RowRange rows) {
    layer_ = layer;
    rows_ = rows;
  }

  [[nodiscard]] int layer() const override { return layer_; }
  [[nodiscard]] RowRange rows() const override { return rows_; }
  [[nodiscard]] TensorView view(SymbolId id) const override {
    const int64_t per_token = graph_.symbols[static_cast<size_t>(id)].rows_per_token;
    return view_all(id).slice_rows(rows_.begin * per_token, rows_.end * per_token);
  }
  [[nodiscard]] TensorView view_all(SymbolId id) const override {
    const Symbol& symbol = graph_.symbols[static_cast<size_t>(id)];
    if (symbol.space == SymbolSpace::kExternal) {
      const auto found = environment_.external.find(symbol.name);
      NANO_CHECK(found != environment_.external.end(), "no external symbol {}", symbol.name);
      return found->second;
    }
    NANO_CHECK(symbol.space == SymbolSpace::kScratch, "{} has no view", symbol.name);
    const TensorView& arena = environment_.arena;
    void* data = arena.empty() ? nullptr
                               : static_cast<std::byte*>(arena.data()) +
                                     plan_.symbol_offset[static_cast<size_t>(id)];
    return {data, symbol.dtype, {plan_.rows * symbol.rows_per_token, symbol.cols}, arena.device()};
  }
  [[nodiscard]] PackedWeight weight(std::string_view name) const override {
    return environment_.weights->weight(name, layer_);
  }
  [[nodiscard]] KvCacheView kv_cache() const override {
    NANO_CHECK(layer_ >= 0 && layer_ < static_cast<int>(environment_.kv.size()),
               "no KV cache for layer {}", layer_);
    return environment_.kv[static_cast<size_t>(layer_)];
  }
  [[nodiscard]] const StepInputs& step() const override { return environment_.step; }

 private:
  const OpGraph& graph_;
  const BindEnvironment& environment_;
  const Plan& plan_;
  int layer_ = -1;
  RowRange rows_;
};

/// Builds one plan.
class Lowering {
 public:
  Lowering(const OpGraph& graph, const PipelineSpec& spec, const BindEnvironment& environment)
      : graph_(graph), spec_(spec), environment_(environment) {
    plan_.name = fmt::format("{}, {}", graph.name, spec.name);
    plan_.rows = environment.rows;
    plan_.num_lanes = spec.num_lanes();
    plan_.arena = environment.arena;
    plan_.header = environment.step.header;
  }

  Plan run() {
    check_spec();
    place_symbols();
    issue();
    place_workspaces();
    return std::move(plan_);
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw ConfigError("pipeline", fmt::format("{}: {}", plan_.name, why));
  }

  void check_spec();
  void check_partition(OpId op) const;
  void place_symbols();
  void issue();
  void issue_whole(Section section);
  void issue_step(OpId op, int layer, const NanoOp& how, const std::vector<StepId>& after_start);
  void place_workspaces();
  [[nodiscard]] int64_t order_of(OpId op, int layer) const;

  const OpGraph& graph_;
  const PipelineSpec& spec_;
  const BindEnvironment& environment_;
  Plan plan_;
  std::vector<OpId> op_of_nano_;  // by position in spec_.order
  StepBinder binder_{graph_, environment_, plan_};
  // After plan_ has its lanes and placement.
  std::unique_ptr<Dependencies> dependencies_;
};

void Lowering::check_spec() {
  if (plan_.num_lanes > environment_.backend->max_lanes())
    fail(fmt::format("needs {} lanes, the device has {}", plan_.num_lanes,
                     environment_.backend->max_lanes()));
  for (size_t i = 0; i < spec_.order.size(); ++i) {
    const OpId op = graph_.find_op(spec_.order[i].op);
    if (op < 0 || graph_.nodes[static_cast<size_t>(op)].section != Section::kLayer)
      fail(fmt::format("order[{}]: the model has no layer op \"{}\"", i, spec_.order[i].op));
    op_of_nano_.push_back(op);
  }
  for (size_t op = 0; op < graph_.nodes.size(); ++op)
    if (graph_.nodes[op].section == Section::kLayer && graph_.num_layers > 0)
      check_partition(static_cast<OpId>(op));
}

/// The op's ranges are [0, key.rows), in the spec's own unit, without holes and overlaps; ops that
/// may not be cut are whole, and ops of one group are cut alike.
void Lowering::check_partition(OpId op) const {
  const OpNode& node = graph_.nodes[static_cast<size_t>(op)];
  const auto cuts = [&](OpId id) {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (size_t i = 0; i < spec_.order.size(); ++i)
      if (op_of_nano_[i] == id)
        ranges.emplace_back(spec_.order[i].rows.begin, spec_.order[i].rows.end);
    std::sort(ranges.begin(), ranges.end());
    return ranges;
  };
  const auto ranges = cuts(op);
  int64_t row = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != row)
      fail(fmt::format("ranges of \"{}\" leave a hole or overlap at row {}", node.name, row));
    row = end;
  }
  if (row != spec_.key.rows) fail(fmt::format("ranges of \"{}\" end at row {}", node.name, row));
  if (node.split == SplitBy::kNone && ranges.size() > 1)
    fail(fmt::format("\"{}\" may not be cut", node.name));
  if (node.align_group < 0) return;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const OpNode& other = graph_.nodes[i];
    if (other.section == Section::kLayer && other.align_group == node.align_group &&
        cuts(static_cast<OpId>(i)) != ranges)
      fail(fmt::format("\"{}\" and \"{}\" must be cut at the same rows", node.name, other.name));
  }
}

void Lowering::place_symbols() {
  ArenaLayout layout;
  for (const Symbol& symbol : graph_.symbols) {
    const int64_t bytes =
        plan_.rows * symbol.rows_per_token * symbol.cols * dtype_size(symbol.dtype);
    plan_.symbol_offset.push_back(symbol.space == SymbolSpace::kScratch ? layout.place(bytes) : -1);
  }
  plan_.arena_bytes = layout.size();
  NANO_CHECK(plan_.arena.empty() || plan_.arena_bytes <= plan_.arena.rows(),
             "{} needs {} bytes of scratch memory, {} are there", plan_.name, plan_.arena_bytes,
             plan_.arena.rows());
  dependencies_ = std::make_unique<Dependencies>(graph_, plan_);
}

/// Prologue, then the layer loop as a software pipeline (period i works on layer i + stage), then
/// epilogue.
void Lowering::issue() {
  std::vector<NanoOp> order = spec_.order;
  for (NanoOp& nano : order) nano.rows = scale_rows(nano.rows, spec_.key.rows, plan_.rows);
  std::vector<StepId> latest(order.size(), -1);  // step of each entry, of this period or the last
  issue_whole(Section::kPrologue);
  for (int period = -spec_.max_stage(); period < graph_.num_layers; ++period) {
    for (size_t i = 0; i < order.size(); ++i) {
      const int layer = period + order[i].stage;
      if (layer < 0 || layer >= graph_.num_layers || order[i].rows.size() == 0) continue;
      std::vector<StepId> after_start;
      for (const int entry : order[i].after_start)
        if (latest[static_cast<size_t>(entry)] >= 0)
          after_start.push_back(latest[static_cast<size_t>(entry)]);
      latest[i] = static_cast<StepId>(plan_.steps.size());
      issue_step(op_of_nano_[i], layer, order[i], after_start);
    }
  }
  issue_whole(Section::kEpilogue);
}

void Lowering::issue_whole(Section section) {
  for (size_t op = 0; op < graph_.nodes.size(); ++op) {
    if (graph_.nodes[op].section == section)
      issue_step(static_cast<OpId>(op), -1, {.rows = {0, plan_.rows}}, {});
  }
}

int64_t Lowering::order_of(OpId op, int layer) const {
  const auto num_ops = static_cast<int64_t>(graph_.nodes.size());
  switch (graph_.nodes[static_cast<size_t>(op)].section) {
    case Section::kPrologue: return op;
    case Section::kLayer: return num_ops * (1 + layer) + op;
    case Section::kEpilogue: break;
  }
  return num_ops * (1 + graph_.num_layers) + op;
}

void Lowering::issue_step(OpId op, int layer, const NanoOp& how,
                          const std::vector<StepId>& after_start) {
  binder_.set(layer, how.rows);
  Step step{.args = graph_.nodes[static_cast<size_t>(op)].bind(binder_),
            .op = op,
            .layer = layer,
            .rows = how.rows,
            .lane = how.lane,
            .sm = how.sm,
            .after_start = after_start};
  if (!environment_.backend->supports(step.args))
    fail(fmt::format("the device cannot compute \"{}\"",
                     graph_.nodes[static_cast<size_t>(op)].name));
  dependencies_->add(step, static_cast<StepId>(plan_.steps.size()), order_of(op, layer),
                     plan_.steps);
  plan_.steps.push_back(std::move(step));
}

/// One region per lane, behind the symbols: steps of one lane never run at the same time.
void Lowering::place_workspaces() {
  std::vector<int64_t> bytes_of_lane(static_cast<size_t>(plan_.num_lanes), 0);
  for (Step& step : plan_.steps) {
    const LaunchContext context{
        .lane = step.lane, .sm = step.sm, .rows = step.rows, .header = plan_.header};
    step.workspace_bytes = environment_.backend->workspace_bytes(step.args, context);
    int64_t& lane_bytes = bytes_of_lane[static_cast<size_t>(step.lane)];
    lane_bytes = std::max(lane_bytes, step.workspace_bytes);
  }
  ArenaLayout layout;
  (void)layout.place(plan_.arena_bytes);
  std::vector<int64_t> offset_of_lane;
  offset_of_lane.reserve(bytes_of_lane.size());
  for (const int64_t bytes : bytes_of_lane) offset_of_lane.push_back(layout.place(bytes));
  for (Step& step : plan_.steps)
    if (step.workspace_bytes > 0)
      step.workspace_offset = offset_of_lane[static_cast<size_t>(step.lane)];
  plan_.arena_bytes = layout.size();
  NANO_CHECK(plan_.arena.empty() || plan_.arena_bytes <= plan_.arena.rows(),
             "{} needs {} bytes of scratch memory, {} are there", plan_.name, plan_.arena_bytes,
             plan_.arena.rows());
}

}  // namespace

Plan lower(const OpGraph& graph, const PipelineSpec& spec, const BindEnvironment& environment) {
  NANO_CHECK(environment.backend != nullptr && environment.rows > 0, "{} rows", environment.rows);
  graph.validate();
  return Lowering(graph, spec, environment).run();
}

}  // namespace nanoflow
