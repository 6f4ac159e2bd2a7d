// How large the KV cache gets: by one function before anything is loaded, and when it is allocated.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "engine/memory_check.h"
#include "engine/step_arrays.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace nanoflow {

/// All of a step's capacity but what depends on the cache's size.
[[nodiscard]] StepCapacity step_capacity(const EngineConfig& config);

/// Prompt and output tokens of one request at most.
[[nodiscard]] int64_t max_request_tokens(const EngineConfig& config, const ModelConfig& model);

/// What a rank that loads its weights with `options` will need. Allocates nothing and needs no
/// checkpoint. Throws ConfigError when config.pipeline is unknown or does not fit the model.
[[nodiscard]] MemoryNeed memory_need(const EngineConfig& config, const ModelConfig& model,
                                     Backend& backend, const LoadOptions& options);

/// Pages that the operator's budget and what is free on `device` allow a rank, at most what
/// config.max_num_seqs requests of `request_tokens` can use; a host's memory is shared by all
/// ranks. The page's sizes are those of `need`; whatever weights and work memory take must be taken
/// from `device` already.
[[nodiscard]] int64_t affordable_pages(const EngineConfig& config, const MemoryNeed& need,
                                       int64_t request_tokens, const DeviceInfo& device);

/// Tokens of KV cache that an engine of `config` would get on `backend`'s device as it is now, once
/// its weights and work memory are there: an estimate, since others use the memory, too. 0 when not
/// a page is left. Throws as memory_need does.
[[nodiscard]] int64_t forecast_kv_tokens(const EngineConfig& config, const ModelConfig& model,
                                         Backend& backend);

}  // namespace nanoflow
