#include "engine/kv_budget.h"

#include <algorithm>

#include "engine/row_bucket.h"
#include "engine/step_plans.h"
#include "engine/token_constraint.h"

namespace nanoflow {
namespace {

// More sampled rows at a time gain nothing and their float32 logits grow with the vocabulary.
constexpr int64_t kMaxSampleChunk = 1024;

}  // namespace

StepCapacity step_capacity(const EngineConfig& config) {
  StepCapacity capacity;
  capacity.rows = row_bucket(config.max_num_batched_tokens);
  capacity.seqs = config.max_num_seqs;
  // Usually each running sequence samples one row; scoring prompts may take several chunks.
  capacity.sample_chunk =
      std::min({kMaxSampleChunk, row_bucket(config.max_num_seqs), capacity.rows});
  capacity.sample_chunks =
      (config.max_num_batched_tokens + capacity.sample_chunk - 1) / capacity.sample_chunk;
  return capacity;
}

int64_t max_request_tokens(const EngineConfig& config, const ModelConfig& model) {
  return config.max_model_len > 0 ? config.max_model_len : model.max_position_embeddings;
}

MemoryNeed memory_need(const EngineConfig& config, const ModelConfig& model, Backend& backend,
                       const LoadOptions& options) {
  const KvLayout layout =
      backend.kv_layout({model.kv_heads(config.tp_size), model.head_dim, options.dtype});
  const UnloadedWeights weights(model, options);
  const int64_t work_bytes =
      StepPlans::estimate_bytes(backend, model, weights, options.dtype, config.tp_size,
                                config.pipeline, step_capacity(config));
  return {.weight_bytes = weights.bytes(),
          .work_bytes = work_bytes + config.max_num_seqs * mask_words(model.vocab_size) * 4,
          .page_bytes = layout.bytes_per_page * model.num_hidden_layers,
          .page_tokens = layout.page_size,
          .max_model_len = config.max_model_len};
}

int64_t affordable_pages(const EngineConfig& config, const MemoryNeed& need, int64_t request_tokens,
                         const DeviceInfo& device) {
  const bool is_shared = device.device.kind == Device::Kind::kHost;
  const int64_t free_bytes =
      std::max<int64_t>(0, device.free_bytes) / (is_shared ? config.tp_size : 1);
  const int64_t budget =
      config.kv_cache_bytes > 0
          ? config.kv_cache_bytes
          : static_cast<int64_t>(config.kv_memory_fraction * static_cast<double>(free_bytes));
  const int64_t pages_of_one = (request_tokens + need.page_tokens - 1) / need.page_tokens;
  // Slots (page * page_size + offset) are int32.
  return std::min({budget / need.page_bytes, config.max_num_seqs * pages_of_one,
                   int64_t{INT32_MAX} / need.page_tokens});
}

int64_t forecast_kv_tokens(const EngineConfig& config, const ModelConfig& model, Backend& backend) {
  LoadOptions options;
  options.dtype = config.dtype.value_or(backend.device().preferred_dtype);
  options.tp_size = config.tp_size;
  options.max_positions = config.max_model_len;
  const MemoryNeed need = memory_need(config, model, backend, options);
  DeviceInfo device = backend.device();
  const int64_t ranks_here = device.device.kind == Device::Kind::kHost ? config.tp_size : 1;
  device.free_bytes -= ranks_here * (need.weight_bytes + need.work_bytes);
  return affordable_pages(config, need, max_request_tokens(config, model), device) *
         need.page_tokens;
}

}  // namespace nanoflow
