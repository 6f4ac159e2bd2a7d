// Executor: walks a plan on a backend: wait, launch, record. Nothing is decided here.
#pragma once

#include <span>
#include <vector>

#include "ops/backend.h"
#include "pipeline/plan.h"

namespace nanoflow {

/// Runs plans of one rank. Lanes fork from lane 0 at a plan's start and join it at its end, so to
/// everybody else a run is one item in lane 0's order. Not thread-safe; used by the rank's thread.
class Executor {
 public:
  explicit Executor(Backend& backend) : backend_(backend) {}

  /// Issues the plan; asynchronous. With `stamps`, two per step of the plan, step i reads the clock
  /// into stamps[2 i] when its turn comes, and into stamps[2 i + 1] when it is done. An
  /// EnvironmentError of a launch names the operation.
  void run(const Plan& plan, std::span<const StampId> stamps = {});
  /// Issues the plan between begin_capture() and end_capture(): Backend::replay() then runs it
  /// again.
  [[nodiscard]] GraphId capture(const Plan& plan, std::span<const StampId> stamps = {});

 private:
  /// Launches the step, unless the plan is for batches in which it has no rows.
  void launch(const Plan& plan, const Step& step, const LaunchContext& context);
  EventId event(size_t index);

  Backend& backend_;
  std::vector<EventId>
      events_;  // reused by all plans: a wait refers to the latest record at the time of the call
};

}  // namespace nanoflow
