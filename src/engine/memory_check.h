// Whether a model and its cache fit on a device, told before anything is allocated or loaded.
#pragma once

#include <cstdint>

#include "engine/config.h"
#include "ops/backend.h"

namespace nanoflow {

/// What one rank needs.
struct MemoryNeed {
  int64_t weight_bytes = 0;
  int64_t work_bytes = 0;     ///< of a step of max_num_batched_tokens rows
  int64_t page_bytes = 0;     ///< of one KV page over all layers
  int64_t page_tokens = 0;    ///< tokens in a page
  int64_t max_model_len = 0;  ///< tokens that one request must be able to have; 0: a page's
};

/// Returns when weights, work memory and the KV cache of one request fit into what is free on
/// `device`, of which the cache gets config.kv_cache_bytes, or config.kv_memory_fraction of what
/// the rest leaves. Else throws OutOfMemory with all these numbers, and which options to change.
void require_memory(const EngineConfig& config, const MemoryNeed& need, const DeviceInfo& device);

}  // namespace nanoflow
