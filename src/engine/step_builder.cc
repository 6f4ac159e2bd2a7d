#include "engine/step_builder.h"

#include <algorithm>

#include "base/check.h"

namespace nanoflow {

namespace {

// Dividing logits by less could overflow float32, and no two of them would still be a draw.
constexpr double kGreedyBelow = 1e-5;

int32_t to_int32(int64_t value) {
  return static_cast<int32_t>(value);
}

int32_t size_of(const std::vector<int32_t>& values) {
  return to_int32(static_cast<int64_t>(values.size()));
}

/// Rows whose prompt successor is scored and was not before.
int64_t scored_rows_begin(const Sequence& s, int64_t begin) {
  return s.wants_prompt_logprobs() ? std::max(begin, s.num_scored) : s.num_prompt;
}

void append_history(StepBatch& batch, const Sequence& s, SamplingRow& row) {
  row.history_begin = size_of(batch.history);
  const auto output = s.tokens.begin() + s.num_prompt;
  // Only the repetition penalty looks at the prompt.
  if (row.repetition_penalty != 1) {
    batch.history.insert(batch.history.end(), s.tokens.begin(), output);
  }
  row.history_output_begin = size_of(batch.history);
  batch.history.insert(batch.history.end(), output, s.tokens.end());
  row.history_end = size_of(batch.history);
  if (s.num_pending > 0) row.pending_slot = s.slot;
}

void append_bias(StepBatch& batch, const Sequence& s, SamplingRow& row) {
  row.forbid_eos_begin = size_of(batch.bias_ids);
  if (s.below_min_tokens() && s.constraint == nullptr) {  // a mask leaves them out itself
    batch.bias_ids.insert(batch.bias_ids.end(), s.stop_ids.begin(), s.stop_ids.end());
    batch.bias_values.resize(batch.bias_ids.size(), 0);
  }
  row.bias_begin = size_of(batch.bias_ids);
  for (const auto& [id, bias] : s.request.sampling.logit_bias) {
    batch.bias_ids.push_back(id);
    batch.bias_values.push_back(bias);
  }
  row.bias_end = size_of(batch.bias_ids);
}

void append_token_choice(StepBatch& batch, const Sequence& s, int32_t row_index) {
  const SamplingParams& p = s.request.sampling;
  SamplingRow row;
  row.temperature = p.temperature < kGreedyBelow ? 0.0F : static_cast<float>(p.temperature);
  row.top_p = static_cast<float>(p.top_p);
  row.min_p = static_cast<float>(p.min_p);
  row.repetition_penalty = static_cast<float>(p.repetition_penalty);
  row.presence_penalty = static_cast<float>(p.presence_penalty);
  row.frequency_penalty = static_cast<float>(p.frequency_penalty);
  row.top_k = to_int32(std::max<int64_t>(p.top_k, 0));
  row.num_logprobs = to_int32(p.logprobs);
  row.seed = s.seed;
  row.position = to_int32(s.length());
  row.slot = s.slot;
  if (s.uses_penalties) append_history(batch, s, row);
  append_bias(batch, s, row);
  if (s.constraint != nullptr) {
    row.mask = to_int32(static_cast<int64_t>(batch.masks.size() / s.mask.size()));
    batch.masks.insert(batch.masks.end(), s.mask.begin(), s.mask.end());
  }
  batch.sample_rows.push_back(row_index);
  batch.sampling.push_back(row);
}

void append_target(StepBatch& batch, const Sequence& s, int64_t position, int32_t row_index) {
  SamplingRow row;
  row.position = to_int32(position);
  row.target = s.tokens[static_cast<size_t>(position)];
  row.num_logprobs = to_int32(s.request.sampling.prompt_logprobs);
  batch.sample_rows.push_back(row_index);
  batch.sampling.push_back(row);
}

void append_pages(StepBatch& batch, const Sequence& s, int64_t tokens, const PagePool& pool) {
  s.pages.append_indices(pool, tokens, batch.kv_page_indices);
  batch.kv_page_indptr.push_back(size_of(batch.kv_page_indices));
  batch.kv_last_page_len.push_back(PageTable::last_page_len(pool, tokens));
}

}  // namespace

AppendedSamples append_rows(StepBatch& batch, const Sequence& s, int64_t num_rows,
                            const PagePool& pool) {
  const int64_t begin = s.num_rows;
  const int64_t end = begin + num_rows;
  NANO_CHECK(num_rows > 0 && num_rows <= s.ready_rows(), "{} rows of {}", num_rows, s.ready_rows());
  const int32_t first_row = size_of(batch.token_ids);
  const auto known = static_cast<int64_t>(s.tokens.size());
  for (int64_t p = begin; p < end; ++p) {
    batch.token_ids.push_back(p < known ? s.tokens[static_cast<size_t>(p)] : ~s.slot);
    batch.positions.push_back(to_int32(p));
    batch.row_seq.push_back(batch.header.num_seqs);
    batch.kv_slots.push_back(s.pages.slot(pool, p));
  }
  batch.q_indptr.push_back(size_of(batch.token_ids));
  append_pages(batch, s, end, pool);

  AppendedSamples samples;
  const int64_t scored_end = std::min(end, s.num_prompt - 1);
  for (int64_t p = scored_rows_begin(s, begin); p < scored_end; ++p) {
    append_target(batch, s, p + 1, first_row + to_int32(p - begin));
    ++samples.num_targets;
  }
  if (end == s.length() && s.max_output > 0) {
    append_token_choice(batch, s, first_row + to_int32(num_rows - 1));
    samples.chooses_token = true;
  }
  batch.header.num_rows += to_int32(num_rows);
  batch.header.num_samples = to_int32(static_cast<int64_t>(batch.sample_rows.size()));
  ++batch.header.num_seqs;
  return samples;
}

}  // namespace nanoflow
