// StepBatch: one step as host arrays in CSR form, as the device will see them (StepInputs in
// ops/op_args.h), and StepResults, what comes back. Which tokens run is the scheduler's decision;
// how they are computed is the worker's.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/op_args.h"

namespace nanoflow {

/// Host arrays of one step. T rows ordered [decodes, prefill chunks], S sequences, N sampled rows.
struct StepBatch {
  int64_t index = 0;  ///< 0, 1, 2, ... in launch order
  StepHeader header;
  std::vector<int32_t> token_ids;         ///< [T], or ~slot
  std::vector<int32_t> positions;         ///< [T]
  std::vector<int32_t> row_seq;           ///< [T]
  std::vector<int32_t> kv_slots;          ///< [T]
  std::vector<int32_t> q_indptr;          ///< [S + 1]
  std::vector<int32_t> kv_page_indptr;    ///< [S + 1]
  std::vector<int32_t> kv_page_indices;   ///< [pages]
  std::vector<int32_t> kv_last_page_len;  ///< [S]
  std::vector<int32_t> sample_rows;       ///< [N]
  std::vector<SamplingRow> sampling;      ///< [N]
  std::vector<int32_t> history;           ///< of rows with penalties
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> masks;  ///< mask_words() words of each constrained row

  /// Empties all arrays (their memory stays) and starts the CSR ones with their 0.
  void clear();
};

/// What one step's sample graph found, one entry per sampled row.
struct StepResults {
  int64_t index = 0;                ///< the StepBatch's
  std::vector<int32_t> ids;         ///< [N] chosen token, or the target
  std::vector<float> logprobs;      ///< [N] of that token
  std::vector<int32_t> ranks;       ///< [N], 0: likeliest
  std::vector<int32_t> top_ids;     ///< [N * kMaxTopLogprobs], -1 behind the wanted;
                                    ///< empty when no row wants any
  std::vector<float> top_logprobs;  ///< [N * kMaxTopLogprobs]
};

}  // namespace nanoflow
