// FakeRunner: a device made of arrays, for tests. Its "model" chooses the next token by hashing all
// tokens of the sequence, which it reads back through the page table from where earlier steps wrote
// them. A page that is shared or freed by mistake, a wrong position, slot or history shows at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "engine/step_runner.h"

namespace nanoflow::fake {

inline constexpr int32_t kVocab = 1000;
inline constexpr int32_t kEos = 7;

/// Of a cache that a few dozen requests of some tokens fill.
inline EngineLimits small_limits() {
  EngineLimits limits;
  limits.num_pages = 64;
  limits.page_size = 4;
  limits.max_model_len = 200;
  limits.vocab_size = kVocab;
  limits.eos_token_ids = {kEos};
  return limits;
}

inline uint64_t hash_tokens(const std::vector<int32_t>& tokens, uint64_t seed) {
  uint64_t h = 0x9e3779b97f4a7c15u ^ seed;
  for (const int32_t token : tokens) {
    h ^= static_cast<uint64_t>(token) + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
    h *= 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return h;
}

/// The token after `tokens`; about one in `eos_period` is EOS. Never one of `forbidden`.
inline int32_t next_token(const std::vector<int32_t>& tokens, uint64_t seed,
                          const std::vector<int32_t>& forbidden, uint64_t eos_period) {
  for (uint64_t salt = 0;; ++salt) {
    const uint64_t h = hash_tokens(tokens, seed + salt * 7919);
    const int32_t token =
        (h >> 40) % eos_period == 0 ? kEos : static_cast<int32_t>((h >> 8) % kVocab);
    if (std::find(forbidden.begin(), forbidden.end(), token) == forbidden.end()) return token;
  }
}

/// The "logprob" of `token` after `tokens`.
inline float logprob_of(const std::vector<int32_t>& tokens, int32_t token) {
  return -static_cast<float>(hash_tokens(tokens, static_cast<uint64_t>(token)) % 10000) / 100;
}

class FakeRunner final : public StepRunner {
 public:
  FakeRunner(const EngineLimits& limits, int64_t max_num_seqs, uint64_t eos_period = 40)
      : limits_(limits),
        eos_period_(eos_period),
        cache_(static_cast<size_t>(limits.kv_tokens())),
        last_token_(static_cast<size_t>(max_num_seqs), -1) {}

  [[nodiscard]] EngineLimits limits() const override { return limits_; }

  /// Only remembers the step: it is computed as late as its results are asked for, so a batch that
  /// is changed too early shows.
  void launch(const StepBatch& batch) override {
    NANO_CHECK(in_flight_.size() < 2, "more than two steps in flight");
    if (on_launch) on_launch(batch);
    in_flight_.push_back({&batch, batch.index});
  }

  StepResults results() override {
    NANO_CHECK(!in_flight_.empty(), "no step in flight");
    if (on_results) on_results();
    const auto [batch, index] = in_flight_.front();
    in_flight_.pop_front();
    NANO_CHECK(batch->index == index, "step {} was overwritten by {}", index, batch->index);
    return compute(*batch);
  }

  /// Called first thing; may throw.
  std::function<void(const StepBatch&)> on_launch;
  std::function<void()> on_results;

 private:
  struct Cell {
    int32_t token = -1;
    int32_t position = -1;
  };

  StepResults compute(const StepBatch& batch) {
    check_shape(batch);
    const auto rows = static_cast<size_t>(batch.header.num_rows);
    for (size_t t = 0; t < rows; ++t) {
      const int32_t id = batch.token_ids[t];
      const int32_t token = id >= 0 ? id : last_token_.at(static_cast<size_t>(~int64_t{id}));
      NANO_CHECK(token >= 0, "row {} takes a token that nobody chose", t);
      cache_.at(static_cast<size_t>(batch.kv_slots[t])) = {token, batch.positions[t]};
    }
    StepResults results;
    results.index = batch.index;
    for (size_t n = 0; n < batch.sampling.size(); ++n) sample(batch, n, results);
    return results;
  }

  static void check_shape(const StepBatch& b) {
    const auto rows = static_cast<size_t>(b.header.num_rows);
    const auto seqs = static_cast<size_t>(b.header.num_seqs);
    const auto samples = static_cast<size_t>(b.header.num_samples);
    NANO_CHECK(rows > 0 && b.token_ids.size() == rows && b.positions.size() == rows);
    NANO_CHECK(b.row_seq.size() == rows && b.kv_slots.size() == rows);
    NANO_CHECK(b.q_indptr.size() == seqs + 1 && b.kv_page_indptr.size() == seqs + 1);
    NANO_CHECK(b.kv_last_page_len.size() == seqs);
    NANO_CHECK(static_cast<size_t>(b.kv_page_indptr.back()) == b.kv_page_indices.size());
    NANO_CHECK(b.sample_rows.size() == samples && b.sampling.size() == samples);
    NANO_CHECK(b.bias_ids.size() == b.bias_values.size());
    for (int32_t s = 0; s < b.header.num_decode_rows; ++s) {
      NANO_CHECK(b.row_seq[static_cast<size_t>(s)] == s, "decodes are one row each, in front");
    }
  }

  std::vector<int32_t> read_sequence(const StepBatch& b, int32_t row) const {
    const auto seq = static_cast<size_t>(b.row_seq[static_cast<size_t>(row)]);
    const int64_t first = b.kv_page_indptr[seq];
    std::vector<int32_t> tokens;
    for (int64_t p = 0; p <= b.positions[static_cast<size_t>(row)]; ++p) {
      const int64_t at = first + p / limits_.page_size;
      NANO_CHECK(at < b.kv_page_indptr[seq + 1], "position {} lies behind the pages", p);
      const int64_t page = b.kv_page_indices[static_cast<size_t>(at)];
      const Cell& cell =
          cache_[static_cast<size_t>(page * limits_.page_size + p % limits_.page_size)];
      NANO_CHECK(cell.position == p, "position {} holds position {}", p, cell.position);
      tokens.push_back(cell.token);
    }
    return tokens;
  }

  void check_history(const StepBatch& b, const SamplingRow& row,
                     const std::vector<int32_t>& tokens) const {
    const auto at = [&](int32_t i) { return b.history.begin() + i; };
    std::vector<int32_t> output(at(row.history_output_begin), at(row.history_end));
    if (row.pending_slot >= 0) {
      output.push_back(last_token_[static_cast<size_t>(row.pending_slot)]);
    }
    NANO_CHECK(output.size() <= tokens.size());
    const auto prompt_end = tokens.end() - static_cast<ptrdiff_t>(output.size());
    NANO_CHECK(std::equal(output.begin(), output.end(), prompt_end), "output history is wrong");
    if (row.repetition_penalty == 1) return;
    NANO_CHECK(
        std::equal(at(row.history_begin), at(row.history_output_begin), tokens.begin(), prompt_end),
        "prompt history is wrong");
  }

  static void append_masked(const StepBatch& b, const SamplingRow& row,
                            std::vector<int32_t>& forbidden) {
    const auto first = static_cast<size_t>(row.mask * mask_words(kVocab));
    for (int32_t id = 0; id < kVocab; ++id) {
      const auto word = static_cast<uint32_t>(b.masks.at(first + static_cast<size_t>(id / 32)));
      if ((word >> (id % 32) & 1U) == 0) forbidden.push_back(id);
    }
  }

  void sample(const StepBatch& b, size_t n, StepResults& results) {
    const SamplingRow& row = b.sampling[n];
    const std::vector<int32_t> tokens = read_sequence(b, b.sample_rows[n]);
    NANO_CHECK(row.position == static_cast<int32_t>(tokens.size()), "samples position {} after {}",
               row.position, tokens.size());
    int32_t token = row.target;
    if (token < 0) {
      std::vector<int32_t> forbidden(b.bias_ids.begin() + row.forbid_eos_begin,
                                     b.bias_ids.begin() + row.bias_begin);
      if (row.mask >= 0) append_masked(b, row, forbidden);
      token = next_token(tokens, row.seed, forbidden, eos_period_);
      if (row.presence_penalty != 0 || row.repetition_penalty != 1) check_history(b, row, tokens);
      last_token_.at(static_cast<size_t>(row.slot)) = token;
    }
    results.ids.push_back(token);
    results.logprobs.push_back(logprob_of(tokens, token));
    results.ranks.push_back(token % 5);
    for (int32_t k = 0; k < kMaxTopLogprobs; ++k) {
      results.top_ids.push_back(k < row.num_logprobs ? token + k : -1);
      results.top_logprobs.push_back(-static_cast<float>(k));
    }
  }

  EngineLimits limits_;
  uint64_t eos_period_;
  std::vector<Cell> cache_;
  std::vector<int32_t> last_token_;
  std::deque<std::pair<const StepBatch*, int64_t>> in_flight_;
};

}  // namespace nanoflow::fake
