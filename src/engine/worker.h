// Worker: one rank's device side. Owns weights, plans, KV cache memory and the step's arrays;
// everything is allocated before the first step. Used by its rank's thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/log.h"
#include "engine/config.h"
#include "engine/engine.h"
#include "engine/kv_memory.h"
#include "engine/result_arrays.h"
#include "engine/step_arrays.h"
#include "engine/step_batch.h"
#include "engine/step_plans.h"
#include "engine/step_timing.h"
#include "model/config.h"
#include "model/source.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "pipeline/executor.h"

namespace nanoflow {

class Worker {
 public:
  /// Loads this rank's weights, telling `progress` about them (may be empty; what it throws ends
  /// the loading), and allocates what does not depend on the cache's size. `records` gets the times
  /// of steps if config.timed_step_interval asks for them; it may be empty. Throws ConfigError,
  /// FormatError, IoError, or OutOfMemory saying what to lower.
  Worker(const EngineConfig& config, const ModelConfig& model, const CheckpointSource& source,
         std::unique_ptr<Backend> backend, int tp_rank, Logger& logger,
         const LoadProgress& progress = {}, StepRecordSink records = {});
  /// Waits until the device is idle.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Pages that the operator's budget and the memory left allow; at most what max_num_seqs requests
  /// of max_model_len can use. Throws OutOfMemory when that is none.
  [[nodiscard]] int64_t affordable_pages() const;
  /// Allocates the cache; once, before the first step. All ranks get the same number.
  void allocate_cache(int64_t num_pages);
  [[nodiscard]] EngineLimits limits() const;

  /// Enqueues a step: copy of its arrays, forward graph, sample graph in chunks, copy of the
  /// results. Asynchronous.
  void launch(const StepBatch& batch);
  /// Waits for the oldest step. Throws what the step threw.
  StepResults results();

 private:
  /// The forward plan and those of the sample graph's chunks.
  std::vector<PlanRun> plans_of(const StepBatch& batch);
  /// Replays the plan's graph, or issues its steps one by one.
  void run(const PreparedPlan& prepared);
  [[nodiscard]] int64_t bytes_per_page() const;
  /// Throws OutOfMemory saying what to lower when the device cannot hold what is asked for; returns
  /// `options`.
  LoadOptions checked(LoadOptions options) const;

  EngineConfig config_;
  ModelConfig model_;
  Logger& logger_;
  bool reports_;                      // rank 0 logs for all
  std::unique_ptr<Backend> backend_;  // before everything that lives in its memory
  DType act_;
  KvLayout kv_layout_;
  WeightStore weights_;
  StepPlans plans_;
  Executor executor_;
  std::optional<StepTiming> timing_;
  ResultArrays result_arrays_;
  int64_t num_pages_ = 0;
  std::optional<KvMemory> kv_memory_;
  std::optional<StepArrays> step_arrays_;
};

}  // namespace nanoflow
