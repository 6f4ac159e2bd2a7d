#include "engine/request.h"

#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "ops/op_args.h"

namespace nanoflow {

namespace {

using Check = Result<void>;

Check in_range(std::string_view field, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("must be between {} and {}, got {}", low, high, value),
              std::string(field));
}

Check integer_in_range(std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("must be between {} and {}, got {}", low, high, value),
              std::string(field));
}

Check at_most(std::string_view field, size_t count, size_t limit) {
  if (count <= limit) return {};
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("has {} entries; at most {} are supported", count, limit),
              std::string(field));
}

/// The first failure among checks, evaluated lazily.
template <typename... Checks>
Check first_failure(const Checks&... checks) {
  Check result;
  (void)((result = checks(), result.has_value()) && ...);
  return result;
}

Check check_numbers(const SamplingParams& p) {
  constexpr int64_t kMaxTokens = INT32_MAX;
  constexpr double kMaxPenalty = 2;  // OpenAI's range
  return first_failure(
      [&] { return integer_in_range("max_tokens", p.max_tokens.value_or(0), 0, kMaxTokens); },
      [&] {
        return integer_in_range("min_tokens", p.min_tokens, 0, p.max_tokens.value_or(kMaxTokens));
      },
      [&] { return in_range("temperature", p.temperature, 0, 1e6); },  // far beyond any use
      [&] { return integer_in_range("top_k", p.top_k, -1, INT32_MAX); },
      [&] { return in_range("top_p", p.top_p, 0, 1); },
      [&] { return in_range("min_p", p.min_p, 0, 1); },
      [&] { return in_range("repetition_penalty", p.repetition_penalty, 1e-6, 1e6); },
      [&] { return in_range("presence_penalty", p.presence_penalty, -kMaxPenalty, kMaxPenalty); },
      [&] { return in_range("frequency_penalty", p.frequency_penalty, -kMaxPenalty, kMaxPenalty); },
      [&] { return integer_in_range("logprobs", p.logprobs, -1, kMaxTopLogprobs); },
      [&] { return integer_in_range("prompt_logprobs", p.prompt_logprobs, -1, kMaxTopLogprobs); });
}

}  // namespace

Result<void> check_token_ids(std::span<const int32_t> ids, int64_t vocab_size,
                             std::string_view field) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("token id {} is outside the vocabulary of {}", id, vocab_size),
                std::string(field));
  }
  return {};
}

Result<void> SamplingParams::validate(int64_t vocab_size) const {
  if (Check numbers = check_numbers(*this); !numbers) return numbers;
  if (Check count = at_most("logit_bias", logit_bias.size(), kMaxLogitBias); !count) return count;
  if (Check count = at_most("stop_token_ids", stop_token_ids.size(), kMaxStopTokenIds); !count) {
    return count;
  }
  for (const auto& [id, bias] : logit_bias) {
    if (Check check = check_token_ids({&id, 1}, vocab_size, "logit_bias"); !check) return check;
    if (Check check = in_range("logit_bias", bias, -1e6, 1e6); !check) return check;
  }
  return check_token_ids(stop_token_ids, vocab_size, "stop_token_ids");
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kAbort: return "abort";
    case FinishReason::kError: return "error";
  }
  return "?";
}

std::optional<TokenEvent> EventQueue::pop(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!ready_.wait_for(lock, timeout, [&] { return !events_.empty(); })) return std::nullopt;
  std::optional<TokenEvent> event(std::move(events_.front()));
  events_.pop_front();
  return event;
}

std::vector<TokenEvent> EventQueue::pop_all(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  ready_.wait_for(lock, timeout, [&] { return !events_.empty(); });
  std::vector<TokenEvent> events(std::make_move_iterator(events_.begin()),
                                 std::make_move_iterator(events_.end()));
  events_.clear();
  return events;
}

void EventQueue::push(TokenEvent event) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = events_.empty();
    events_.push_back(std::move(event));
  }
  ready_.notify_one();
  if (was_empty && on_ready_) on_ready_();
}

}  // namespace nanoflow
