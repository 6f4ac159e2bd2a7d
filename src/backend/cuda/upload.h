// Uploader: pageable host memory to the GPU at the rate of the bus, through page-locked buffers
// that several threads fill while others are on their way.
#pragma once

#include <vector>

#include "backend/cuda/cuda.h"
#include "tensor/tensor_view.h"

namespace nanoflow::cuda {

class Uploader {
 public:
  /// Throws OutOfMemory when the page-locked buffers (kSlots * kSlotBytes) do not fit.
  explicit Uploader(int ordinal);

  /// Copies the rows of `host`, without gaps, to device memory `to`. Returns once `host` has been
  /// read; the copies themselves are done when an event of record() is. Throws CudaError.
  void upload(void* to, const TensorView& host);
  /// Enqueued behind all copies so far; later work of a stream that waits for it sees them.
  void record(const Event& event) const;

 private:
  // Two slots per thread: one is filled while the other is on the bus. One core copies about
  // 10 GB/s, so four keep a PCIe 5 link (55 GB/s measured) mostly busy with few cores.
  static constexpr int kThreads = 4;
  static constexpr int kSlotsPerThread = 2;
  static constexpr int64_t kSlotBytes = int64_t{4} << 20;

  struct Slot {
    PinnedBuffer memory{kSlotBytes};
    Event free;
  };

  void upload_part(int slot, void* to, const TensorView& host, int64_t begin, int64_t end);

  int ordinal_;
  Stream stream_;
  std::vector<Slot> slots_;
};

}  // namespace nanoflow::cuda
