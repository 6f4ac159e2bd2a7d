// WorkerGroup: the real StepRunner. One thread and one Worker per tensor parallel rank; all ranks
// run the same steps, rank 0's results are returned.
#pragma once

#include <functional>
#include <memory>

#include "base/log.h"
#include "comm/communicator.h"
#include "engine/config.h"
#include "engine/step_runner.h"
#include "model/config.h"
#include "model/source.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "ops/busy_times.h"

namespace nanoflow {

/// Makes rank `communicator.rank()`'s backend; called once per rank, on that rank's thread.
/// The communicator outlives the backend.
using BackendFactory = std::function<std::unique_ptr<Backend>(Communicator& communicator)>;

/// Loads the model on config.tp_size ranks of this process and allocates everything. `source` is
/// only read before this returns; `progress`, when not empty, is called on rank 0's thread before
/// then, and what it throws ends the loading of all ranks. `records`, when not empty, gets rank 0's
/// steps on its thread if config.timed_step_interval asks for them. Throws ConfigError,
/// FormatError, IoError, or OutOfMemory saying what to lower.
std::unique_ptr<StepRunner> make_worker_group(const EngineConfig& config, const ModelConfig& model,
                                              const CheckpointSource& source,
                                              const BackendFactory& make_backend, Logger& logger,
                                              const LoadProgress& progress = {},
                                              const StepRecordSink& records = {});

}  // namespace nanoflow
