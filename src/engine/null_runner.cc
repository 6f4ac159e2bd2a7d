#include "engine/null_runner.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/random.h"
#include "engine/kv_budget.h"

namespace nanoflow {
namespace {

constexpr int64_t kPageSize = 16;  // tokens, as on every device so far

/// Slots (page * page size + offset) are int32.
constexpr int64_t kMaxPages = INT32_MAX / kPageSize;

}  // namespace

EngineLimits null_limits(const EngineConfig& config, const ModelConfig& model) {
  const int64_t tokens = max_request_tokens(config, model);
  const int64_t page_bytes =
      model.kv_bytes_per_token(config.dtype.value_or(DType::kBF16), config.tp_size) * kPageSize;
  const int64_t pages = config.kv_cache_bytes > 0
                            ? config.kv_cache_bytes / page_bytes
                            : config.max_num_seqs * ((tokens + kPageSize - 1) / kPageSize);
  if (pages < 1) throw ConfigError("--kv-cache-gib", "does not hold a page of the KV cache");
  return {.max_model_len = tokens,
          .vocab_size = model.vocab_size,
          .page_size = kPageSize,
          .num_pages = std::min(pages, kMaxPages),
          .eos_token_ids = model.eos_token_id};
}

NullRunner::NullRunner(EngineLimits limits, std::vector<int32_t> ids, int64_t step_ns)
    : limits_(std::move(limits)), ids_(std::move(ids)), step_ns_(step_ns) {
  NANO_CHECK(!ids_.empty() && step_ns_ >= 0, "{} ids, {} ns", ids_.size(), step_ns_);
}

void NullRunner::launch(const StepBatch& batch) {
  busy_until_ns_ = std::max(busy_until_ns_, clock_.now_ns()) + step_ns_;
  in_flight_.push_back({&batch, busy_until_ns_});
}

size_t NullRunner::choice(const SamplingRow& row) const {
  const uint64_t position = static_cast<uint64_t>(row.position) * kGoldenGamma;
  return mix_bits(row.seed ^ position) % ids_.size();
}

StepResults NullRunner::results() {
  NANO_CHECK(!in_flight_.empty(), "no step in flight");
  const Step step = in_flight_.front();
  in_flight_.pop_front();
  const int64_t left_ns = step.end_ns - clock_.now_ns();
  if (step_ns_ > 0 && left_ns > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(left_ns));

  const std::vector<SamplingRow>& rows = step.batch->sampling;
  StepResults results;
  results.index = step.batch->index;
  results.ids.reserve(rows.size());
  results.logprobs.assign(rows.size(), 0);
  results.ranks.assign(rows.size(), 0);
  const bool wants_top =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.num_logprobs > 0; });
  for (const SamplingRow& row : rows) {
    const size_t first = choice(row);
    results.ids.push_back(row.target >= 0 ? row.target : ids_[first]);
    if (!wants_top) continue;
    // The likeliest has probability one; the others follow as far as there are tokens.
    for (size_t k = 0; k < static_cast<size_t>(kMaxTopLogprobs); ++k) {
      const bool wanted = static_cast<int64_t>(k) < row.num_logprobs && k < ids_.size();
      results.top_ids.push_back(wanted ? ids_[(first + k) % ids_.size()] : -1);
      results.top_logprobs.push_back(-100 * static_cast<float>(k));
    }
  }
  return results;
}

}  // namespace nanoflow
