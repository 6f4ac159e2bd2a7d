#include "engine/step_timing.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace nanoflow {

namespace {

/// FLOPs and bytes of one op of a step whose plan has `live_rows` rows.
void add_cost(const OpArgs& args, int64_t live_rows, const std::vector<int32_t>& positions,
              int64_t num_decode_rows, int tp_size, OpRecord& record) {
  const auto* attention = std::get_if<PagedAttentionArgs>(&args);
  const int64_t tokens =
      attention == nullptr ? 0 : kv_tokens_read(positions, num_decode_rows, *attention);
  const OpCost cost = op_cost(args, tokens, tp_size);
  if (attention != nullptr) {
    record.flops = cost.flops;
    record.bytes = static_cast<double>(2 * tokens * attention->num_kv_heads * attention->head_dim *
                                       dtype_size(attention->cache.dtype));
    return;
  }
  const int64_t live = std::clamp<int64_t>(live_rows - record.rows.begin, 0, record.rows.size());
  const auto all = static_cast<double>(std::max<int64_t>(1, record.rows.size()));
  record.flops = cost.flops * static_cast<double>(live) / all;
  record.bytes = cost.memory_bytes;
}

}  // namespace

int64_t kv_tokens_read(const std::vector<int32_t>& positions, int64_t num_decode_rows,
                       const PagedAttentionArgs& attention) {
  int64_t begin = attention.rows.begin;
  int64_t end = std::min(attention.rows.end, static_cast<int64_t>(positions.size()));
  if (attention.phase == Phase::kDecode) end = std::min(end, num_decode_rows);
  if (attention.phase == Phase::kPrefill) begin = std::max(begin, num_decode_rows);
  int64_t tokens = 0;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t context = positions[static_cast<size_t>(row)] + 1;
    tokens += attention.window > 0 ? std::min(context, attention.window) : context;
  }
  return tokens;
}

StepTiming::StepTiming(Backend& backend, Executor& executor, StepRecordSink sink, int64_t interval,
                       int tp_size, bool captures)
    : backend_(backend),
      executor_(executor),
      sink_(std::move(sink)),
      interval_(interval),
      tp_size_(tp_size),
      captures_(captures) {
  NANO_CHECK(interval > 0, "interval {}", interval);
  for (Slot& slot : slots_) slot = {backend.create_stamp(), backend.create_stamp()};
}

bool StepTiming::begin(const StepBatch& batch, const std::vector<PlanRun>& runs) {
  const bool one_is_timed = std::any_of(pending_.begin(), pending_.end(),
                                        [](const Pending& p) { return !p.runs.empty(); });
  // From the middle of an interval on: a run's first steps are special.
  const bool is_timed = count_ % interval_ == interval_ / 2 && !one_is_timed;
  const bool is_delayed = is_timed && prepare(runs);
  Pending& step = pending_.emplace_back();
  step.record.index = batch.index;
  step.record.num_rows = batch.header.num_rows;
  step.record.num_decode_rows = batch.header.num_decode_rows;
  step.record.bucket = runs.front().prepared->plan.rows;
  step.slot = static_cast<size_t>(count_) % slots_.size();
  step.idle_is_known = count_ > 0 && !is_delayed;
  if (is_timed) {
    step.positions = batch.positions;
    step.runs = runs;
  }
  ++count_;
  backend_.stamp(0, slots_[step.slot].begin);
  return is_timed;
}

bool StepTiming::prepare(const std::vector<PlanRun>& runs) {
  bool captured = false;
  for (const PlanRun& run : runs) {
    const auto [found, is_new] = timed_plans_.try_emplace(run.prepared);
    if (!is_new) continue;
    TimedPlan& timed = found->second;
    const Plan& plan = run.prepared->plan;
    for (size_t i = 0; i < 2 * plan.steps.size(); ++i)
      timed.stamps.push_back(backend_.create_stamp());
    if (!captures_) continue;
    timed.graph = executor_.capture(plan, timed.stamps);
    captured = true;
  }
  return captured;
}

void StepTiming::run(const PreparedPlan& prepared) {
  const TimedPlan& timed = timed_plans_.at(&prepared);
  if (timed.graph.has_value()) {
    backend_.replay(*timed.graph);
  } else {
    executor_.run(prepared.plan, timed.stamps);
  }
}

void StepTiming::end() {
  backend_.stamp(0, slots_[pending_.back().slot].end);
}

void StepTiming::collect() {
  NANO_CHECK(!pending_.empty(), "no step in flight");
  Pending step = std::move(pending_.front());
  pending_.pop_front();
  StepRecord& record = step.record;
  const Slot& slot = slots_[step.slot];
  if (collected_ > 0) {
    const Slot& before = slots_[(step.slot + slots_.size() - 1) % slots_.size()];
    record.begin_ns = last_begin_ns_ + backend_.elapsed_ns(before.begin, slot.begin);
    if (step.idle_is_known)
      record.idle_ns = std::max<int64_t>(0, backend_.elapsed_ns(before.end, slot.begin));
  }
  ++collected_;
  record.end_ns = record.begin_ns + backend_.elapsed_ns(slot.begin, slot.end);
  last_begin_ns_ = record.begin_ns;
  for (const PlanRun& run : step.runs) read_ops(run, step, record);
  sink_(record);
}

void StepTiming::read_ops(const PlanRun& run, const Pending& pending, StepRecord& record) const {
  const Plan& plan = run.prepared->plan;
  const std::vector<StampId>& stamps = timed_plans_.at(run.prepared).stamps;
  const StampId origin = slots_[pending.slot].begin;
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    OpRecord op{.name = run.prepared->ops->nodes[static_cast<size_t>(step.op)].name,
                .kind = time_kind(step.args),
                .lane = step.lane,
                .layer = step.layer,
                .rows = step.rows};
    op.begin_ns = record.begin_ns + backend_.elapsed_ns(origin, stamps[2 * i]);
    op.end_ns = record.begin_ns + backend_.elapsed_ns(origin, stamps[2 * i + 1]);
    add_cost(step.args, run.live_rows, pending.positions, record.num_decode_rows, tp_size_, op);
    record.ops.push_back(std::move(op));
  }
}

}  // namespace nanoflow
