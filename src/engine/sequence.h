// Sequence: a request's life inside the engine. Plain state with derived numbers; the scheduler
// moves it through its states, step_builder.h turns it into rows.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "engine/request.h"
#include "kv/page_table.h"

namespace nanoflow {

/// What the scheduler computes is rows: row p is the token at position p, whose K and V are stored
/// and whose logits choose (or score) the token at position p + 1.
struct Sequence {
  enum class Status : uint8_t {
    kWaiting,  ///< holds neither pages nor a slot
    kRunning,
    kFinished,
  };

  /// Takes over an accepted request. `max_output`: its output tokens at most, from max_tokens and
  /// the context. `seed` is used when the request has none. `arrival` orders requests.
  Sequence(Request accepted, int64_t max_output_tokens, uint64_t default_seed,
           int64_t arrival_index, int64_t submitted_ns);

  Request request;  ///< its prompt has moved to `tokens`
  int64_t arrival = 0;
  int64_t num_prompt = 0;
  int64_t max_output = 0;
  uint64_t seed = 0;
  std::vector<int32_t> stop_ids;  ///< ids that end the output, sorted
  bool uses_penalties = false;
  /// With a constraint: how far the known output has come, and what may follow it (of mask_words()
  /// words). Set by the scheduler.
  std::unique_ptr<ConstraintState> constraint;
  std::vector<int32_t> mask;

  Status status = Status::kWaiting;
  std::vector<int32_t> tokens;  ///< prompt, then the output tokens that the host knows
  /// Output tokens chosen by steps in flight. At most 1 when a step is scheduled.
  int64_t num_pending = 0;
  int64_t num_rows = 0;  ///< rows computed or in flight, since the last (re)start
  PageTable pages;
  int32_t slot = -1;       ///< index into last_token while running
  int64_t last_step = -1;  ///< the latest step that has rows of it
  int64_t num_scored = 0;  ///< prompt tokens whose logprob is known or in flight
  bool first_event_sent = false;

  std::vector<TokenLogprob> prompt_logprobs;
  int64_t num_preemptions = 0;
  RequestTimes times;

  /// Output tokens that are known.
  [[nodiscard]] int64_t num_output() const {
    return static_cast<int64_t>(tokens.size()) - num_prompt;
  }
  /// All tokens, also those still in flight.
  [[nodiscard]] int64_t length() const { return static_cast<int64_t>(tokens.size()) + num_pending; }
  /// Rows of its whole life; the last output token is never a row. 0: nothing to compute.
  [[nodiscard]] int64_t total_rows() const;
  /// Whether its next token waits for the last one to be known, as its mask does.
  [[nodiscard]] bool awaits_token() const { return constraint != nullptr && num_pending > 0; }
  /// Computes the mask of the next token; below min_tokens without stop ids, unless nothing else
  /// may come. False: no token may come.
  [[nodiscard]] bool update_mask();
  /// Rows that could run now.
  [[nodiscard]] int64_t ready_rows() const;
  /// Whether its next row is a decode: one row, after the prompt.
  [[nodiscard]] bool is_decode() const { return num_rows >= num_prompt && ready_rows() == 1; }
  [[nodiscard]] bool wants_prompt_logprobs() const { return request.sampling.prompt_logprobs >= 0; }
  /// Whether EOS and stop ids are forbidden for the next token.
  [[nodiscard]] bool below_min_tokens() const {
    return num_output() + num_pending < request.sampling.min_tokens;
  }
  [[nodiscard]] bool stops_at(int32_t token) const;
  /// Order of service: priority, then arrival.
  [[nodiscard]] std::tuple<int64_t, int64_t> rank() const {
    return {request.sampling.priority, arrival};
  }
};

}  // namespace nanoflow
