// StepArrays: a step's inputs on the device. All arrays lie in one buffer at fixed places, so that
// plans can be bound to them once; a step is written to pinned memory and moved by one copy.
#pragma once

#include <array>
#include <cstdint>

#include "engine/step_batch.h"
#include "ops/backend.h"

namespace nanoflow {

/// Most entries that any step can have.
struct StepCapacity {
  int64_t rows = 0;           ///< a row bucket
  int64_t seqs = 0;           ///< sequences, and last_token slots
  int64_t sample_chunk = 0;   ///< rows of one run of the sample graph, a row bucket
  int64_t sample_chunks = 0;  ///< runs per step
  int64_t page_indices = 0;
  int64_t biases = 0;
  int64_t history = 0;
  int64_t mask_words = 0;  ///< of one sequence's mask
};

class StepArrays {
 public:
  /// Throws OutOfMemory naming what to lower.
  StepArrays(Backend& backend, const StepCapacity& capacity);

  /// Writes the step and enqueues its copy on lane 0. The previous but one step must be done, since
  /// its staging memory is used again. Rows behind the live ones, up to `row_bucket` and in each
  /// sample chunk, become padding that touches nothing.
  void upload(const StepBatch& batch, int64_t row_bucket);

  /// For the forward graph: every array, whole.
  [[nodiscard]] const StepInputs& forward_inputs() const { return forward_inputs_; }
  /// For run `chunk` of the sample graph: its rows of the sample arrays, and a header whose rows
  /// are sampled rows.
  [[nodiscard]] StepInputs sample_inputs(int64_t chunk) const;

  [[nodiscard]] int64_t bytes() const { return 3 * device_.size(); }

 private:
  /// Byte offsets in the buffer.
  struct Layout {
    explicit Layout(const StepCapacity& capacity);
    int64_t header, chunk_headers, token_ids, positions, row_seq, kv_slots, q_indptr,
        kv_page_indptr, kv_last_page_len, sample_rows, sampling, kv_page_indices, bias_ids,
        bias_values, history, masks, size;
  };

  template <typename T>
  void put(int64_t offset, const std::vector<T>& values);
  template <typename T>
  void pad(int64_t offset, size_t begin, int64_t end, const T& value);
  void put_sample_headers(int64_t num_samples);
  void copy_range(int64_t begin, int64_t end);
  [[nodiscard]] TensorView view(DType dtype, int64_t rows, int64_t offset) const {
    return device_.view(dtype, {rows}, offset);
  }

  Backend& backend_;
  StepCapacity capacity_;
  Layout layout_;
  Buffer device_;
  std::array<Buffer, 2> staging_;
  size_t current_ = 0;
  Buffer last_token_;
  StepInputs forward_inputs_;
};

}  // namespace nanoflow
