#include "engine/result_arrays.h"

#include <algorithm>
#include <cstring>

#include "engine/device_memory.h"

namespace nanoflow {

namespace {

constexpr const char* kRemedy = "lower --max-num-batched-tokens";

}  // namespace

ResultArrays::Layout::Layout(int64_t capacity) {
  ArenaLayout arena;
  ids = arena.place(capacity * 4);
  logprobs = arena.place(capacity * 4);
  ranks = arena.place(capacity * 4);
  top_ids = arena.place(capacity * kMaxTopLogprobs * 4);
  top_logprobs = arena.place(capacity * kMaxTopLogprobs * 4);
  size = arena.size();
}

ResultArrays::ResultArrays(Backend& backend, int64_t capacity)
    : backend_(backend),
      layout_(capacity),
      capacity_(capacity),
      device_(allocate_for(backend, layout_.size, "sampling results", kRemedy)) {
  for (Buffer& host : host_) {
    host = allocate_pinned_for(backend, layout_.size, "sampling results on the host", kRemedy);
  }
  for (EventId& event : events_) event = backend.create_event();
}

void ResultArrays::bind(std::map<std::string, TensorView, std::less<>>& external, int64_t begin,
                        int64_t rows) const {
  const auto at = [&](DType dtype, int64_t cols, int64_t offset) {
    return device_.view(dtype, {capacity_, cols}, offset).slice_rows(begin, begin + rows);
  };
  external["sampled_ids"] = at(DType::kI32, 1, layout_.ids);
  external["sampled_logprobs"] = at(DType::kF32, 1, layout_.logprobs);
  external["sampled_ranks"] = at(DType::kI32, 1, layout_.ranks);
  external["top_ids"] = at(DType::kI32, kMaxTopLogprobs, layout_.top_ids);
  external["top_logprobs"] = at(DType::kF32, kMaxTopLogprobs, layout_.top_logprobs);
}

void ResultArrays::copy_rows(int64_t offset, int64_t bytes) {
  if (bytes == 0) return;
  backend_.copy(host_[next_in_].view(DType::kU8, {bytes}, offset),
                device_.view(DType::kU8, {bytes}, offset), 0);
}

void ResultArrays::download(const StepBatch& batch) {
  const int64_t n = batch.header.num_samples;
  const bool has_top = std::any_of(batch.sampling.begin(), batch.sampling.end(),
                                   [](const SamplingRow& row) { return row.num_logprobs > 0; });
  for (const int64_t offset : {layout_.ids, layout_.logprobs, layout_.ranks}) {
    copy_rows(offset, n * 4);
  }
  if (has_top) {
    copy_rows(layout_.top_ids, n * kMaxTopLogprobs * 4);
    copy_rows(layout_.top_logprobs, n * kMaxTopLogprobs * 4);
  }
  pending_[next_in_] = {batch.index, n, has_top};
  backend_.record(0, events_[next_in_]);
  next_in_ ^= 1;
}

template <typename T>
void ResultArrays::read(std::vector<T>& out, int64_t offset, int64_t count) const {
  out.resize(static_cast<size_t>(count));
  if (count == 0) return;
  std::memcpy(out.data(), static_cast<const std::byte*>(host_[next_out_].data()) + offset,
              out.size() * sizeof(T));
}

StepResults ResultArrays::wait() {
  backend_.synchronize_event(events_[next_out_]);
  const Pending& pending = pending_[next_out_];
  StepResults results;
  results.index = pending.index;
  read(results.ids, layout_.ids, pending.num_samples);
  read(results.logprobs, layout_.logprobs, pending.num_samples);
  read(results.ranks, layout_.ranks, pending.num_samples);
  const int64_t top = pending.has_top ? pending.num_samples * kMaxTopLogprobs : 0;
  read(results.top_ids, layout_.top_ids, top);
  read(results.top_logprobs, layout_.top_logprobs, top);
  next_out_ ^= 1;
  return results;
}

}  // namespace nanoflow
