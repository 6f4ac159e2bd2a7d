// EngineConfig: what the operator decides. Every default is written here and nowhere else.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "tensor/dtype.h"

namespace nanoflow {

struct EngineConfig {
  /// Dense batch: rows of one step at most, decodes and prefill chunks together.
  int64_t max_num_batched_tokens = 2048;
  /// Sequences that run at the same time at most.
  int64_t max_num_seqs = 256;
  /// Prompt and output tokens of one request at most; 0: the model's max_position_embeddings.
  int64_t max_model_len = 0;
  /// Bytes of the KV cache of each rank; 0: kv_memory_fraction decides.
  int64_t kv_cache_bytes = 0;
  /// Share of the device memory that is free after weights and work buffers.
  double kv_memory_fraction = 0.9;
  /// Of weights and activations; unset: the backend's preferred one.
  std::optional<DType> dtype;
  /// Tensor parallel ranks.
  int tp_size = 1;
  /// Host threads with which each rank reads its weights; 0: its share of the usable cores.
  int load_threads = 0;
  /// How a step is cut and ordered: "sequential", another built-in generator's name, or the path of
  /// a spec file.
  std::string pipeline = "sequential";
  /// Requests that wait to be scheduled for the first time at most; more are refused.
  int64_t max_queue_size = 1024;
  /// Seeds requests that bring none.
  uint64_t seed = 0;
  /// Make and verify the plans of all row buckets at start (milliseconds each) instead of when they
  /// are first needed.
  bool warm_up = true;
  /// Capture each plan as a graph of the backend once and replay it; false: issue its operations
  /// one by one at every step (to find out which one fails).
  bool capture_graphs = true;
  /// Measure when steps run on the device, and of one step in this many when each operation does;
  /// 0: nothing.
  int64_t timed_step_interval = 0;

  /// Seconds that a step may run on the device before it counts as hung and the engine fails; 0:
  /// any time.
  double step_timeout_s = 0;

  /// Throws ConfigError naming the command's option that sets the field.
  void validate() const;
  /// For the report at start.
  [[nodiscard]] Json to_json() const;
};

}  // namespace nanoflow
