#include "pipeline/executor.h"

#include <string>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {

void Executor::run(const Plan& plan, std::span<const StampId> stamps) {
  NANO_CHECK(!plan.arena.empty() || plan.arena_bytes == 0, "{} was lowered without memory",
             plan.name);
  const auto num_steps = plan.steps.size();
  NANO_CHECK(stamps.empty() || stamps.size() == 2 * num_steps, "{} stamps for {} steps",
             stamps.size(), num_steps);
  // Events [0, steps) are the steps'; those behind fork and join the lanes.
  if (plan.num_lanes > 1) backend_.record(0, event(num_steps));
  for (LaneId lane = 1; lane < plan.num_lanes; ++lane) backend_.wait(lane, event(num_steps));
  for (size_t i = 0; i < num_steps; ++i) {
    const Step& step = plan.steps[i];
    for (const StepId earlier : step.waits)
      backend_.wait(step.lane, event(static_cast<size_t>(earlier)));
    const LaunchContext context{
        .lane = step.lane,
        .sm = step.sm,
        .workspace = plan.arena.slice_rows(step.workspace_offset,
                                           step.workspace_offset + step.workspace_bytes),
        .rows = step.rows,
        .header = plan.header};
    if (!stamps.empty()) backend_.stamp(step.lane, stamps[2 * i]);
    launch(plan, step, context);
    if (!stamps.empty()) backend_.stamp(step.lane, stamps[2 * i + 1]);
    if (step.signals) backend_.record(step.lane, event(i));
  }
  for (LaneId lane = 1; lane < plan.num_lanes; ++lane) {
    const EventId end = event(num_steps + static_cast<size_t>(lane));
    backend_.record(lane, end);
    backend_.wait(0, end);
  }
}

void Executor::launch(const Plan& plan, const Step& step, const LaunchContext& context) {
  const auto* attention = std::get_if<PagedAttentionArgs>(&step.args);
  if (plan.decode_only && attention != nullptr && attention->phase == Phase::kPrefill) return;
  try {
    backend_.launch(step.args, context);
  } catch (const ConfigError&) {
    throw;
  } catch (const EnvironmentError& e) {
    const std::string layer = step.layer < 0 ? "" : fmt::format(" of layer {}", step.layer);
    // What fails says which operation it is.
    throw EnvironmentError(fmt::format("{}{}, rows {} to {} ({}): {}", op_kind_name(step.args),
                                       layer, step.rows.begin, step.rows.end, plan.name, e.what()));
  }
}

GraphId Executor::capture(const Plan& plan, std::span<const StampId> stamps) {
  backend_.begin_capture();
  run(plan, stamps);
  return backend_.end_capture();
}

EventId Executor::event(size_t index) {
  while (events_.size() <= index) events_.push_back(backend_.create_event());
  return events_[index];
}

}  // namespace nanoflow
