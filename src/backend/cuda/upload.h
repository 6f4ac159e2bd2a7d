// Uploader: pageable host memory to the GPU at the rate of the bus, through page-locked buffers
// that several threads fill while others are on their way.
#pragma once

#include <vector>

#include "backend/cuda/cuda.h"
#include "ops/backend.h"

namespace nanoflow::cuda {

class Uploader {
 public:
  /// Page-locked memory is taken when it is first needed: up to 32 MiB for upload(), 48 MiB (or
  /// three rows) for load().
  explicit Uploader(int ordinal);

  /// Copies the rows of `host`, without gaps, to device memory `to`. Returns once `host` has been
  /// read; the copies themselves are done when an event of record() is. Throws CudaError.
  void upload(void* to, const TensorView& host);
  /// Fills a [shape.rows, shape.cols] matrix at `to` from pieces that `read` writes into
  /// page-locked memory, each on its way while the next is read. Throws CudaError, OutOfMemory, and
  /// what `read` throws.
  void load(void* to, const WeightShape& shape, const WeightReader& read);
  /// Enqueued behind all copies so far; later work of a stream that waits for it sees them.
  void record(const Event& event) const;

 private:
  // Two slots per thread: one is filled while the other is on the bus. One core copies about
  // 10 GB/s, so four keep a PCIe 5 link (55 GB/s measured) mostly busy with few cores.
  static constexpr int kThreads = 4;
  static constexpr int kSlotsPerThread = 2;
  static constexpr int64_t kSlotBytes = int64_t{4} << 20;
  // Pieces of load(): one is on the bus, one waits for it, one is read. Larger ones take longer to
  // page-lock (0.4 ms per MiB), smaller ones make the reader's threads meet more often: 16 MiB was
  // fastest of 16, 32 and 64 on an H200 with 16 cores.
  static constexpr int kPieces = 3;
  static constexpr int64_t kPieceBytes = int64_t{16} << 20;

  struct Slot {
    PinnedBuffer memory;
    Event free;
  };

  void upload_part(int slot, void* to, const TensorView& host, int64_t begin, int64_t end);
  /// The slot's memory, at least `bytes`, once its last copy is done.
  static void* wait_for(Slot& slot, int64_t bytes);
  void send(Slot& slot, void* to, int64_t bytes) const;

  int ordinal_;
  Stream stream_;
  std::vector<Slot> slots_;
  std::vector<Slot> pieces_;
};

}  // namespace nanoflow::cuda
