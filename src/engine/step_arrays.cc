#include "engine/step_arrays.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "base/check.h"
#include "engine/device_memory.h"

namespace nanoflow {

namespace {

constexpr int64_t kHeaderBytes = sizeof(StepHeader);
constexpr int64_t kSamplingBytes = sizeof(SamplingRow);
constexpr const char* kRemedy = "lower --max-num-batched-tokens or --max-num-seqs";

int64_t samples_of(const StepCapacity& capacity) {
  return capacity.sample_chunk * capacity.sample_chunks;
}

}  // namespace

// What a step always has lies in front; the last four arrays are mostly empty, and usually not
// copied.
StepArrays::Layout::Layout(const StepCapacity& c) {
  ArenaLayout arena;
  const auto place_int32 = [&](int64_t count) { return arena.place(count * 4); };
  header = arena.place(kHeaderBytes);
  chunk_headers = arena.place(c.sample_chunks * kHeaderBytes);
  token_ids = place_int32(c.rows);
  positions = place_int32(c.rows);
  row_seq = place_int32(c.rows);
  kv_slots = place_int32(c.rows);
  q_indptr = place_int32(c.seqs + 1);
  kv_page_indptr = place_int32(c.seqs + 1);
  kv_last_page_len = place_int32(c.seqs);
  sample_rows = place_int32(samples_of(c));
  sampling = arena.place(samples_of(c) * kSamplingBytes);
  kv_page_indices = place_int32(c.page_indices);
  bias_ids = place_int32(c.biases);
  bias_values = place_int32(c.biases);
  history = place_int32(c.history);
  masks = place_int32(c.seqs * c.mask_words);
  size = arena.size();
}

StepArrays::StepArrays(Backend& backend, const StepCapacity& capacity)
    : backend_(backend),
      capacity_(capacity),
      layout_(capacity),
      device_(allocate_for(backend, layout_.size, "the step's arrays", kRemedy)),
      last_token_(allocate_for(backend, capacity.seqs * 4, "the last tokens", kRemedy)) {
  for (Buffer& staging : staging_) {
    staging = allocate_pinned_for(backend, layout_.size, "the step's arrays on the host", kRemedy);
    std::memset(staging.data(), 0, static_cast<size_t>(staging.size()));
  }
  backend_.copy(device_.view(DType::kU8, {layout_.size}),
                staging_[0].view(DType::kU8, {layout_.size}), 0);
  backend_.copy(last_token_.view(DType::kU8, {capacity.seqs * 4}),
                staging_[0].view(DType::kU8, {capacity.seqs * 4}), 0);
  backend_.synchronize();
  constexpr DType kI32 = DType::kI32;
  const int64_t samples = samples_of(capacity);
  const auto* base = static_cast<const std::byte*>(device_.data());
  forward_inputs_ = {
      .header = reinterpret_cast<const StepHeader*>(base + layout_.header),
      .token_ids = view(kI32, capacity.rows, layout_.token_ids),
      .positions = view(kI32, capacity.rows, layout_.positions),
      .row_seq = view(kI32, capacity.rows, layout_.row_seq),
      .kv_slots = view(kI32, capacity.rows, layout_.kv_slots),
      .q_indptr = view(kI32, capacity.seqs + 1, layout_.q_indptr),
      .kv_page_indptr = view(kI32, capacity.seqs + 1, layout_.kv_page_indptr),
      .kv_page_indices = view(kI32, capacity.page_indices, layout_.kv_page_indices),
      .kv_last_page_len = view(kI32, capacity.seqs, layout_.kv_last_page_len),
      .last_token = last_token_.view(kI32, {capacity.seqs}),
      .sample_rows = view(kI32, samples, layout_.sample_rows),
      .sampling = device_.view(DType::kU8, {samples, kSamplingBytes}, layout_.sampling),
      .history = view(kI32, capacity.history, layout_.history),
      .bias_ids = view(kI32, capacity.biases, layout_.bias_ids),
      .bias_values = view(DType::kF32, capacity.biases, layout_.bias_values),
      .masks = device_.view(kI32, {capacity.seqs, capacity.mask_words}, layout_.masks)};
}

StepInputs StepArrays::sample_inputs(int64_t chunk) const {
  NANO_CHECK(chunk >= 0 && chunk < capacity_.sample_chunks, "chunk {}", chunk);
  StepInputs inputs = forward_inputs_;
  const auto* base = static_cast<const std::byte*>(device_.data());
  inputs.header = reinterpret_cast<const StepHeader*>(base + layout_.chunk_headers) + chunk;
  const int64_t begin = chunk * capacity_.sample_chunk;
  const int64_t end = begin + capacity_.sample_chunk;
  inputs.sample_rows = inputs.sample_rows.slice_rows(begin, end);
  inputs.sampling = inputs.sampling.slice_rows(begin, end);
  return inputs;
}

template <typename T>
void StepArrays::put(int64_t offset, const std::vector<T>& values) {
  if (values.empty()) return;
  auto* base = static_cast<std::byte*>(staging_[current_].data());
  std::memcpy(base + offset, values.data(), values.size() * sizeof(T));
}

template <typename T>
void StepArrays::pad(int64_t offset, size_t begin, int64_t end, const T& value) {
  auto* base = static_cast<std::byte*>(staging_[current_].data());
  for (auto i = static_cast<int64_t>(begin); i < end; ++i) {
    std::memcpy(base + offset + i * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
  }
}

void StepArrays::put_sample_headers(int64_t num_samples) {
  std::vector<StepHeader> headers;
  for (int64_t c = 0; c < capacity_.sample_chunks; ++c) {
    const auto rows = static_cast<int32_t>(
        std::clamp<int64_t>(num_samples - c * capacity_.sample_chunk, 0, capacity_.sample_chunk));
    headers.push_back({.num_rows = rows, .num_samples = rows});
  }
  put(layout_.chunk_headers, headers);
}

void StepArrays::copy_range(int64_t begin, int64_t end) {
  if (end <= begin) return;
  backend_.copy(device_.view(DType::kU8, {end - begin}, begin),
                staging_[current_].view(DType::kU8, {end - begin}, begin), 0);
}

void StepArrays::upload(const StepBatch& batch, int64_t row_bucket) {
  const auto count = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  NANO_CHECK(row_bucket <= capacity_.rows && batch.header.num_rows <= row_bucket, "{} rows in {}",
             batch.header.num_rows, row_bucket);
  NANO_CHECK(batch.header.num_seqs <= capacity_.seqs, "{} sequences", batch.header.num_seqs);
  NANO_CHECK(count(batch.sampling) <= samples_of(capacity_), "{} samples", batch.sampling.size());
  NANO_CHECK(count(batch.kv_page_indices) <= capacity_.page_indices &&
                 count(batch.bias_ids) <= capacity_.biases &&
                 count(batch.history) <= capacity_.history &&
                 count(batch.masks) <= capacity_.seqs * capacity_.mask_words,
             "{} pages, {} biases, {} history, {} words of masks", batch.kv_page_indices.size(),
             batch.bias_ids.size(), batch.history.size(), batch.masks.size());
  current_ ^= 1;
  put(layout_.header, std::vector<StepHeader>{batch.header});
  put_sample_headers(batch.header.num_samples);
  const size_t rows = batch.token_ids.size();
  for (const auto& [offset, values, padding] : {std::tuple{layout_.token_ids, &batch.token_ids, 0},
                                                {layout_.positions, &batch.positions, 0},
                                                {layout_.row_seq, &batch.row_seq, 0},
                                                {layout_.kv_slots, &batch.kv_slots, -1}}) {
    put(offset, *values);
    pad(offset, rows, row_bucket, padding);
  }
  put(layout_.q_indptr, batch.q_indptr);
  put(layout_.kv_page_indptr, batch.kv_page_indptr);
  put(layout_.kv_last_page_len, batch.kv_last_page_len);
  put(layout_.sample_rows, batch.sample_rows);
  put(layout_.sampling, batch.sampling);
  const size_t samples = batch.sampling.size();
  const int64_t chunk = capacity_.sample_chunk;
  const int64_t padded = (static_cast<int64_t>(samples) + chunk - 1) / chunk * chunk;
  pad(layout_.sample_rows, samples, padded, int32_t{0});
  pad(layout_.sampling, samples, padded, SamplingRow{});
  put(layout_.kv_page_indices, batch.kv_page_indices);
  copy_range(0, layout_.kv_page_indices + count(batch.kv_page_indices) * 4);
  if (!batch.masks.empty()) {
    put(layout_.masks, batch.masks);
    copy_range(layout_.masks, layout_.masks + count(batch.masks) * 4);
  }
  if (batch.bias_ids.empty() && batch.history.empty()) return;
  put(layout_.bias_ids, batch.bias_ids);
  put(layout_.bias_values, batch.bias_values);
  put(layout_.history, batch.history);
  copy_range(layout_.bias_ids, layout_.history + count(batch.history) * 4);
}

}  // namespace nanoflow
