// Scheduler: decides which tokens run in each step. Continuous batching with chunked prefill into a
// dense token budget, first come first served. Pure host logic: no threads, no clock, no device;
// the same calls give the same steps.
//
// It works with a lag of one: step i is scheduled before the results of step i-1 are known.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/growth.h"
#include "engine/length_model.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/step_batch.h"
#include "engine/step_builder.h"
#include "kv/page_pool.h"

namespace nanoflow {

struct SchedulerConfig {
  int64_t max_num_batched_tokens = 0;  ///< at least max_num_seqs
  int64_t max_num_seqs = 0;
  int64_t num_pages = 0;
  int64_t page_size = 0;
  int64_t vocab_size = 0;  ///< of the masks of constrained sequences
};

/// Totals since construction, except where "now".
struct SchedulerStats {
  int64_t running = 0;      ///< now
  int64_t waiting = 0;      ///< now, preempted ones included
  int64_t unscheduled = 0;  ///< now, of waiting: never scheduled yet
  int64_t prompt_rows = 0;  ///< prefill rows, recomputation included
  int64_t decode_rows = 0;
  int64_t wasted_rows = 0;
  int64_t output_tokens = 0;
  int64_t preemptions = 0;
  int64_t recomputed_rows = 0;  ///< rows that preemption threw away
  int64_t finished_stop = 0, finished_length = 0, finished_abort = 0, finished_error = 0;
};

/// Of a request whose output its constraint lets come no further.
TokenEvent constraint_failure();

class Scheduler {
 public:
  /// NANO_CHECKs the config.
  explicit Scheduler(const SchedulerConfig& config);
  ~Scheduler();

  /// Adds a sequence whose request was checked: its total_rows() fit the pool, its id is in no
  /// other sequence (both NANO_CHECKed).
  void add(std::unique_ptr<Sequence> sequence, int64_t now_ns);
  /// Ends a request with kAbort; unknown ids are ignored.
  void cancel(RequestId id, int64_t now_ns);
  /// Ends every request; results of steps in flight will be dropped.
  void finish_all(FinishReason reason, const std::string& error, int64_t now_ns);

  /// Fills `batch` with the next step. False: nothing can run before a step in flight is committed
  /// (or at all). At most one step may be in flight.
  [[nodiscard]] bool schedule(StepBatch& batch, int64_t now_ns);
  /// Takes the results of the oldest step in flight.
  void commit(const StepResults& results, int64_t now_ns);
  /// Forgets the steps in flight: the device that ran them is gone. After finish_all().
  void drop_steps_in_flight();

  /// Events since the last call.
  [[nodiscard]] std::vector<TokenEvent> take_events() { return std::exchange(events_, {}); }

  /// Whether no request is left.
  [[nodiscard]] bool idle() const { return sequences_.empty(); }
  [[nodiscard]] int64_t steps_in_flight() const { return static_cast<int64_t>(in_flight_.size()); }
  [[nodiscard]] SchedulerStats stats() const;
  [[nodiscard]] const PagePool& pool() const { return pool_; }
  /// Pages, slots and lists agree with each other. Returns what is wrong, or "". Linear.
  [[nodiscard]] std::string check_integrity() const;

 private:
  // Shared by the lists below and by the records of steps in flight, which may outlive a request.
  using SequencePtr = std::shared_ptr<Sequence>;
  using Rank = std::tuple<int64_t, int64_t>;

  /// A sequence's rows in the step being scheduled.
  struct Planned {
    SequencePtr sequence;
    int64_t num_rows = 0;
  };
  /// A sequence's rows in a step in flight.
  struct Part {
    SequencePtr sequence;
    int64_t num_rows = 0;
    AppendedSamples samples;
  };
  struct StepRecord {
    int64_t index = 0;
    std::vector<Part> parts;
  };
  /// Pages whose sequence is gone but which a step in flight still refers to.
  struct RetiredPages {
    int64_t step = 0;
    PageTable pages;
  };

  // Scheduling.
  void plan_running(int64_t& prefill_budget);
  void plan_waiting(int64_t& prefill_budget, int64_t now_ns);
  int64_t affordable_rows(Sequence& sequence, int64_t wanted, size_t index);
  void make_room(int64_t missing_pages, size_t index);
  void preempt(size_t index);
  void start_running(const SequencePtr& sequence, int64_t now_ns);
  void emit_rows(StepBatch& batch, const std::vector<Planned>& planned, StepRecord& record);
  [[nodiscard]] int64_t unclaimed_free_pages() const;
  [[nodiscard]] GrowthForecast forecast_running() const;
  [[nodiscard]] GrowthForecast::Entry forecast(const Sequence& sequence) const;

  // Constraints.
  [[nodiscard]] bool start_constraint(Sequence& sequence) const;
  [[nodiscard]] bool advance_constraint(Sequence& sequence, int32_t token) const;

  // Ends.
  void release(Sequence& sequence);
  void finish(const SequencePtr& sequence, FinishReason reason, int64_t now_ns,
              TokenEvent event = {});
  void sweep_running();
  void commit_part(const Part& part, const StepResults& results, size_t first_sample,
                   int64_t now_ns);
  void commit_token(const SequencePtr& sequence, const StepResults& results, size_t sample,
                    int64_t now_ns);
  void push_event(Sequence& sequence, TokenEvent event, int64_t now_ns);
  void free_retired_pages(int64_t committed_step);

  SchedulerConfig config_;
  PagePool pool_;
  LengthModel lengths_;
  GrowthReserve reserve_;
  std::unordered_map<RequestId, SequencePtr> sequences_;  // all that have not finished
  std::vector<SequencePtr> running_;                      // by rank
  std::map<Rank, SequencePtr> waiting_;
  std::vector<int32_t> free_slots_;
  std::deque<StepRecord> in_flight_;
  std::deque<RetiredPages> retired_;
  int64_t retired_pages_ = 0;
  int64_t next_step_ = 0;
  std::vector<TokenEvent> events_;
  SchedulerStats stats_;

  // Of the step being scheduled.
  std::vector<Planned> decodes_;
  std::vector<Planned> prefills_;
  int64_t claimed_pages_ = 0;  // freed for sequences that wait for a step in flight to let go
  bool short_of_pages_ = false;
};

}  // namespace nanoflow
