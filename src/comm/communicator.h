// Communicator: collectives of one group of ranks. Here the interface and the in-process one
// (threads of one process meeting at a barrier), which tests and CPU tensor parallelism use.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "tensor/tensor_view.h"

namespace nanoflow {

/// One rank's end of a group. Each collective blocks until every rank of the group has called the
/// same one, in the same order. Called from the lane that runs the op.
class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;

  /// x = sum over ranks, added in rank order in float32 and rounded once: every rank gets the same
  /// bits.
  ///   x [rows, cols] float32, bfloat16 or float16, any row stride.
  virtual void all_reduce(const TensorView& x) = 0;
  /// out[r] = concatenation over ranks of x[r].  x [rows, cols], out [rows, cols * size()], same
  /// dtype.
  virtual void all_gather(const TensorView& out, const TensorView& x) = 0;
  virtual void barrier() = 0;
  /// Wakes every rank that waits, with an EnvironmentError; later calls fail at once. Any thread.
  virtual void abort() = 0;
};

/// `size` communicators of one in-process group; rank r uses element r, from any one thread at a
/// time.
std::vector<std::unique_ptr<Communicator>> make_in_process_group(int size);

}  // namespace nanoflow
