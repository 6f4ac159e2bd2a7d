#include "engine/config.h"

#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {

namespace {

void require(bool condition, const char* field, const std::string& why) {
  if (!condition) throw ConfigError(field, why);
}

void require_between(const char* field, int64_t value, int64_t low, int64_t high) {
  require(value >= low && value <= high, field,
          fmt::format("must be between {} and {}, got {}", low, high, value));
}

}  // namespace

void EngineConfig::validate() const {
  constexpr int64_t kMaxRows = int64_t{1} << 20;  // far beyond where a larger batch is faster
  require_between("--max-num-batched-tokens", max_num_batched_tokens, 1, kMaxRows);
  require_between("--max-num-seqs", max_num_seqs, 1, kMaxRows);
  require(max_num_seqs <= max_num_batched_tokens, "--max-num-seqs",
          fmt::format("{} running sequences need a row each in every step, but "
                      "--max-num-batched-tokens is {}; lower one or raise the other",
                      max_num_seqs, max_num_batched_tokens));
  require_between("--max-model-len", max_model_len, 0, INT32_MAX);
  require(kv_cache_bytes >= 0, "--kv-cache-gib",
          fmt::format("must not be negative, got {} bytes", kv_cache_bytes));
  require(std::isfinite(kv_memory_fraction) && kv_memory_fraction > 0 && kv_memory_fraction <= 1,
          "--kv-memory-fraction", fmt::format("must be in (0, 1], got {}", kv_memory_fraction));
  if (dtype) {
    require(*dtype == DType::kF32 || *dtype == DType::kBF16 || *dtype == DType::kF16, "--dtype",
            fmt::format("must be float32, bfloat16 or float16, got {}", dtype_name(*dtype)));
  }
  require_between("--tensor-parallel-size", tp_size, 1, 64);
  require_between("--threads", load_threads, 0, 1024);
  require(!pipeline.empty(), "--pipeline", "must name a generator or a spec file");
  require_between("timed_step_interval", timed_step_interval, 0, INT32_MAX);
  // A century is far beyond any step, and still a number of nanoseconds.
  require(step_timeout_s >= 0 && step_timeout_s <= 3e9, "--step-timeout",
          fmt::format("must be between 0 and 3e9 seconds, got {}", step_timeout_s));
  require_between("max_queue_size", max_queue_size, 1, int64_t{1} << 24);
}

Json EngineConfig::to_json() const {
  return Json::object({{"max_num_batched_tokens", max_num_batched_tokens},
                       {"max_num_seqs", max_num_seqs},
                       {"max_model_len", max_model_len},
                       {"kv_cache_bytes", kv_cache_bytes},
                       {"kv_memory_fraction", kv_memory_fraction},
                       {"dtype", dtype ? Json(dtype_name(*dtype)) : Json("auto")},
                       {"tp_size", tp_size},
                       {"pipeline", pipeline},
                       {"max_queue_size", max_queue_size},
                       {"seed", seed},
                       {"warm_up", warm_up},
                       {"capture_graphs", capture_graphs},
                       {"timed_step_interval", timed_step_interval},
                       {"step_timeout_s", step_timeout_s}});
}

}  // namespace nanoflow
