// What goes into the engine and what comes out of it: Request, SamplingParams, TokenEvent and the
// queue that carries events to whoever serves the client. Tokens only; text lives elsewhere.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/token_constraint.h"

namespace nanoflow {

/// Names a request while it is in flight; chosen by the caller (0: the engine chooses).
using RequestId = uint64_t;

/// Most entries of logit_bias, stop_token_ids and eos_token_ids of one request: memory for them is
/// set aside per sequence at start.
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr size_t kMaxStopTokenIds = 128;

/// How output tokens are chosen and when they end. Names and meanings are OpenAI's and vLLM's.
struct SamplingParams {
  std::optional<int64_t> max_tokens;  ///< output tokens at most; unset: what the context leaves;
                                      ///< 0: the prompt is only scored
  int64_t min_tokens = 0;             ///< EOS and stop ids are forbidden before this many
  double temperature = 1;             ///< 0 (or below 1e-5): greedy
  int64_t top_k = 0;                  ///< 0 or -1: all
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;                      ///< over prompt and output
  double presence_penalty = 0;                        ///< over output
  double frequency_penalty = 0;                       ///< over output
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< (token id, added to its logit)
  std::optional<uint64_t> seed;  ///< set: the same seed gives the same tokens in any batch
  int64_t logprobs = -1;  ///< -1: none; 0: of the chosen token; n: and of the n likeliest (<= 20)
  int64_t prompt_logprobs = -1;         ///< the same for the prompt's tokens from the second on
  std::vector<int32_t> stop_token_ids;  ///< end the output; part of it, like EOS
  bool ignore_eos = false;              ///< EOS ids do not stop; stop_token_ids still do
  int64_t priority = 0;                 ///< lower is served first; equal: first come first served

  /// Checks ranges and combinations against a vocabulary of `vocab_size` ids; the error's param is
  /// the field's name.
  [[nodiscard]] Result<void> validate(int64_t vocab_size) const;
};

/// Fails with kInvalidArgument and `field` as its param unless every id is in [0, vocab_size).
Result<void> check_token_ids(std::span<const int32_t> ids, int64_t vocab_size,
                             std::string_view field);

struct Request {
  RequestId id = 0;
  std::vector<int32_t> prompt;  ///< token ids, at least one
  SamplingParams sampling;
  /// Ids that end the output; unset: the model's own.
  std::optional<std::vector<int32_t>> eos_token_ids;
  /// What the output must be, or null; shared with whoever compiled it. EOS ids then end the output
  /// even with ignore_eos, and min_tokens yields where nothing but the end may follow.
  std::shared_ptr<const TokenConstraint> constraint;
};

enum class FinishReason : uint8_t {
  kStop,    ///< EOS or a stop token id
  kLength,  ///< max_tokens or the context's end
  kAbort,   ///< cancelled, or the engine was shut down
  kError,   ///< the engine failed while serving it
};

/// "stop", "length", "abort", "error".
std::string_view finish_reason_name(FinishReason reason);

/// One likely alternative at a position.
struct TopLogprob {
  int32_t token = 0;
  float logprob = 0;
};

/// Log-softmax of the unmodified logits at one position.
struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;             ///< 0: the likeliest of the vocabulary
  std::vector<TopLogprob> top;  ///< by falling logprob, as many as were asked for
};

/// When things happened to a request, in nanoseconds of the engine's clock; 0: not yet.
struct RequestTimes {
  int64_t submitted_ns = 0;
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int64_t event_ns = 0;  ///< of this event
};

/// News of one request. The last one has `finish` set; exactly one such event ends every accepted
/// request.
struct TokenEvent {
  RequestId request_id = 0;
  std::vector<int32_t> tokens;         ///< new output tokens, in order; may be empty
  std::vector<TokenLogprob> logprobs;  ///< one per token when asked for, else empty
  /// Of prompt tokens 1, 2, ... (the first has none); whole, on the request's first event only.
  std::vector<TokenLogprob> prompt_logprobs;
  std::optional<FinishReason> finish;
  std::optional<int32_t> stop_token;  ///< with kStop: the id that stopped it (tokens' last)
  std::string error;                  ///< with kError: one line for the client
  ErrorCode error_code = ErrorCode::kInternal;  ///< with kError: whose fault it is
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;  ///< so far, this event's included
  int64_t num_preemptions = 0;
  RequestTimes times;
};

/// A thread-safe queue of events: of one request, or shared by thousands that one thread serves.
/// Never blocks the engine; holds at most what the requests' outputs amount to.
class EventQueue {
 public:
  /// `on_ready` is called on the engine's thread whenever the queue turns from empty to not empty;
  /// it must not block nor call into this queue.
  explicit EventQueue(std::function<void()> on_ready = nullptr) : on_ready_(std::move(on_ready)) {}

  /// Next event; waits at most `timeout`. nullopt: none came.
  [[nodiscard]] std::optional<TokenEvent> pop(std::chrono::nanoseconds timeout);
  /// Next event if there is one.
  [[nodiscard]] std::optional<TokenEvent> try_pop() { return pop(std::chrono::nanoseconds(0)); }
  /// All events there are; waits at most `timeout` for the first.
  [[nodiscard]] std::vector<TokenEvent> pop_all(std::chrono::nanoseconds timeout);

  /// Engine only.
  void push(TokenEvent event);

 private:
  std::function<void()> on_ready_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<TokenEvent> events_;
};

}  // namespace nanoflow
