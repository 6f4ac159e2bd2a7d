#include "engine/memory_check.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "base/error.h"
#include "base/units.h"

namespace nanoflow {
namespace {

std::string size_text(int64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

constexpr const char* kSmallerModel = "use a smaller model or a GPU with more memory";

/// Against a cache for which `cache_bytes` are left.
std::string cache_remedy(const EngineConfig& config, const MemoryNeed& need, int64_t left,
                         int64_t cache_bytes) {
  std::string remedy;
  const int64_t tokens = std::max<int64_t>(0, cache_bytes) / need.page_bytes * need.page_tokens;
  if (config.kv_cache_bytes > std::max<int64_t>(0, left)) {
    remedy = fmt::format("lower --kv-cache-gib (now {:.1f}), of which {:.1f} are left",
                         gib(config.kv_cache_bytes), gib(std::max<int64_t>(0, left)));
  } else if (tokens > 0) {
    remedy = fmt::format("lower --max-model-len (now {}) to {}", need.max_model_len, tokens);
  }
  if (config.kv_cache_bytes > 0) {
    if (tokens < need.max_model_len && config.kv_cache_bytes <= left)
      remedy += fmt::format(", raise --kv-cache-gib (now {:.1f})", gib(config.kv_cache_bytes));
  } else if (left > cache_bytes) {
    remedy += fmt::format("{}raise --kv-memory-fraction (now {})", remedy.empty() ? "" : ", ",
                          config.kv_memory_fraction);
  }
  return fmt::format(
      "{}{}lower --max-num-batched-tokens (now {}) or --max-num-seqs (now {}), or {}", remedy,
      remedy.empty() ? "" : ", ", config.max_num_batched_tokens, config.max_num_seqs,
      kSmallerModel);
}

}  // namespace

void require_memory(const EngineConfig& config, const MemoryNeed& need, const DeviceInfo& device) {
  const int64_t tokens = std::max(need.max_model_len, need.page_tokens);
  const int64_t pages = (tokens + need.page_tokens - 1) / need.page_tokens;
  const int64_t request_bytes = pages * need.page_bytes;
  const int64_t left = device.free_bytes - need.weight_bytes - need.work_bytes;
  const int64_t cache_bytes =
      config.kv_cache_bytes > 0
          ? config.kv_cache_bytes
          : static_cast<int64_t>(config.kv_memory_fraction * static_cast<double>(left));
  const int64_t missing = std::max(cache_bytes, request_bytes) - left;
  if (missing <= 0 && request_bytes <= cache_bytes) return;
  std::string remedy;
  if (need.weight_bytes >= device.free_bytes) {
    remedy = kSmallerModel;
  } else if (left < need.page_bytes) {
    remedy =
        fmt::format("lower --max-num-batched-tokens (now {}) or --max-num-seqs (now {}), or {}",
                    config.max_num_batched_tokens, config.max_num_seqs, kSmallerModel);
  } else {
    remedy = cache_remedy(config, need, left, std::min(left, cache_bytes));
  }
  throw OutOfMemory(fmt::format(
      "{} has {} free of {}; too little for {} of weights, {} of work memory for a step, and a KV "
      "cache of {} for a request of {} tokens: {}",
      device.name, size_text(device.free_bytes), size_text(device.memory_bytes),
      size_text(need.weight_bytes), size_text(need.work_bytes), size_text(request_bytes), tokens,
      remedy));
}

}  // namespace nanoflow
