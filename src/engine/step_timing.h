// StepTiming: when a rank's steps ran on the device, and of one step in some also every op. What is
// captured for the others stays as it is: a timed step runs variants of its plans with stamps
// around each op, captured when a bucket is first timed.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "engine/step_batch.h"
#include "engine/step_plans.h"
#include "ops/backend.h"
#include "ops/busy_times.h"
#include "pipeline/executor.h"

namespace nanoflow {

/// A plan of a step, whose first `live_rows` rows are no padding.
struct PlanRun {
  const PreparedPlan* prepared = nullptr;
  int64_t live_rows = 0;
};

class StepTiming {
 public:
  /// The ops of one step in `interval` > 0 are timed, and at most of every second one: its stamps
  /// are read before they serve again. `captures`: as graphs. The references outlive this.
  StepTiming(Backend& backend, Executor& executor, StepRecordSink sink, int64_t interval,
             int tp_size, bool captures);

  /// Before the first of a step's plans, `runs`, but behind the copy of its inputs. True: the ops
  /// are to be timed, so that each plan must be run by run(); false: as usual.
  bool begin(const StepBatch& batch, const std::vector<PlanRun>& runs);
  void run(const PreparedPlan& prepared);
  /// Behind the step's last plan, before its results are copied.
  void end();
  /// Hands the oldest step's record to the sink. Its last op must be known to be done.
  void collect();

 private:
  struct TimedPlan {
    std::vector<StampId> stamps;  ///< as Executor::run() takes them
    std::optional<GraphId> graph;
  };
  /// A step in flight.
  struct Pending {
    StepRecord record;
    size_t slot = 0;
    bool idle_is_known = false;      ///< the time since the step before
    std::vector<int32_t> positions;  ///< of its rows
    std::vector<PlanRun> runs;       ///< whose ops are timed
  };
  struct Slot {
    StampId begin = -1, end = -1;
  };

  /// Captures what is missing of `runs`; false: nothing was.
  bool prepare(const std::vector<PlanRun>& runs);
  void read_ops(const PlanRun& run, const Pending& pending, StepRecord& record) const;

  Backend& backend_;
  Executor& executor_;
  const StepRecordSink sink_;
  const int64_t interval_;
  const int tp_size_;
  const bool captures_;
  // Of two steps in flight, and the one before them.
  std::array<Slot, 3> slots_;
  std::map<const PreparedPlan*, TimedPlan> timed_plans_;
  std::deque<Pending> pending_;
  int64_t count_ = 0;  // of steps begun
  int64_t collected_ = 0;
  int64_t last_begin_ns_ = 0;  // of the last step collected
};

/// Positions that attention of `phase` reads for rows `rows` of a step whose first
/// `num_decode_rows` rows are decodes: row t reads (positions[t] - window, positions[t]].
int64_t kv_tokens_read(const std::vector<int32_t>& positions, int64_t num_decode_rows,
                       const PagedAttentionArgs& attention);

}  // namespace nanoflow
