#include "backend/cuda/upload.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

namespace nanoflow::cuda {
namespace {

/// Copies payload bytes [begin, end) of `host` (its rows without their gaps) to `to`.
void gather_bytes(std::byte* to, const TensorView& host, int64_t begin, int64_t end) {
  const auto* from = static_cast<const std::byte*>(host.data());
  const int64_t element = dtype_size(host.dtype());
  const int64_t row_bytes = host.cols() * element, pitch = host.row_stride() * element;
  if (host.is_contiguous()) {
    std::memcpy(to, from + begin, static_cast<size_t>(end - begin));
    return;
  }
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / row_bytes, col = at % row_bytes;
    const int64_t bytes = std::min(end - at, row_bytes - col);
    std::memcpy(to + (at - begin), from + row * pitch + col, static_cast<size_t>(bytes));
    at += bytes;
  }
}

}  // namespace

Uploader::Uploader(int ordinal)
    : ordinal_(ordinal), slots_(size_t{kThreads} * kSlotsPerThread), pieces_(kPieces) {}

void Uploader::record(const Event& event) const {
  cuda_check(cudaEventRecord(event.get(), stream_.get()), "marking uploaded weights");
}

void Uploader::upload(void* to, const TensorView& host) {
  const int64_t bytes = host.size_bytes();
  if (bytes == 0) return;
  const int64_t chunks = (bytes + kSlotBytes - 1) / kSlotBytes;
  const auto threads = static_cast<int>(std::min<int64_t>(kThreads, chunks));
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&](int thread) {
    try {
      if (thread > 0) cuda_check(cudaSetDevice(ordinal_), "choosing the GPU");
      for (int64_t turn = 0, chunk = next++; chunk < chunks; chunk = next++, ++turn) {
        const int slot = thread * kSlotsPerThread + static_cast<int>(turn % kSlotsPerThread);
        const int64_t begin = chunk * kSlotBytes;
        upload_part(slot, static_cast<std::byte*>(to) + begin, host, begin,
                    std::min(bytes, begin + kSlotBytes));
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = chunks;
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int t = 1; t < threads; ++t) helpers.emplace_back(work, t);
    work(0);
  }
  if (failure) std::rethrow_exception(failure);
}

void Uploader::upload_part(int slot, void* to, const TensorView& host, int64_t begin, int64_t end) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  gather_bytes(static_cast<std::byte*>(wait_for(s, kSlotBytes)), host, begin, end);
  send(s, to, end - begin);
}

void Uploader::load(void* to, const WeightShape& shape, const WeightReader& read) {
  const int64_t row_bytes = shape.cols * dtype_size(shape.dtype);
  if (row_bytes == 0) return;
  const int64_t step = std::max<int64_t>(1, kPieceBytes / row_bytes);
  size_t turn = 0;
  for (int64_t row = 0; row < shape.rows; row += step, turn = (turn + 1) % kPieces) {
    Slot& slot = pieces_[turn];
    const int64_t rows = std::min(step, shape.rows - row);
    void* memory = wait_for(slot, std::max(kPieceBytes, row_bytes));
    read(row, TensorView(memory, shape.dtype, {rows, shape.cols}));
    send(slot, static_cast<std::byte*>(to) + row * row_bytes, rows * row_bytes);
  }
}

void* Uploader::wait_for(Slot& slot, int64_t bytes) {
  cuda_check(cudaEventSynchronize(slot.free.get()), "copying weights");
  if (slot.memory.size() < bytes) slot.memory = PinnedBuffer(bytes);
  return slot.memory.data();
}

void Uploader::send(Slot& slot, void* to, int64_t bytes) const {
  cuda_check(cudaMemcpyAsync(to, slot.memory.data(), static_cast<size_t>(bytes),
                             cudaMemcpyHostToDevice, stream_.get()),
             "copying weights");
  cuda_check(cudaEventRecord(slot.free.get(), stream_.get()), "copying weights");
}

}  // namespace nanoflow::cuda
