// StepRunner: the device side as the engine's loop sees it. Implemented by WorkerGroup (worker.h)
// and by fakes in tests.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "engine/step_batch.h"

namespace nanoflow {

/// Runs steps in order, asynchronously. Used by the engine's thread only.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  /// Pages, vocabulary, lengths. Known after construction.
  [[nodiscard]] virtual EngineLimits limits() const = 0;
  /// Starts a step. Returns before it has run; at most two steps are in flight. `batch` may be
  /// reused by the caller after results() of the same step. Throws EnvironmentError.
  virtual void launch(const StepBatch& batch) = 0;
  /// Waits for the oldest step in flight. Throws what the step threw, or DeviceHang when it takes
  /// too long: the runner and the batches of its steps must be abandoned then.
  virtual StepResults results() = 0;
};

}  // namespace nanoflow
