// Chooses the library's algorithms for dense products by timing them as they will run: on random
// data, over weights that no cache holds, with the GPU at its power cap. Bursts rank them wrongly.
#pragma once

#include <functional>

#include "backend/cuda/cuda.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_table.h"

namespace nanoflow::cuda {

struct GemmTunerOptions {
  double window_seconds = 0.04;  ///< of one measurement of one algorithm
  int passes = 2;      ///< over all algorithms of a product, so that drift hits them alike
  int candidates = 8;  ///< that the library proposes
};

class GemmTuner {
 public:
  /// Takes 4.5 GiB of device memory, more for larger products. Throws OutOfMemory, CudaError.
  GemmTuner(const DeviceLimits& device, const GemmTunerOptions& options);

  /// Runs products for `seconds` so that the GPU is at its cap.
  void warm_up(double seconds);
  /// The fastest algorithm for out [rows, n] = a [rows, k] @ w^T in bf16, out in `out_dtype`.
  /// Throws CudaError.
  GemmEntry tune(int64_t rows, int64_t n, int64_t k, DType out_dtype = DType::kBF16);
  /// An empty table of this GPU and this library.
  [[nodiscard]] GemmTable table() const;

 private:
  [[nodiscard]] GemmArgs product(int64_t rows, int64_t n, int64_t k, DType out_dtype, int turn);
  /// Mean seconds of a launch over a window.
  double time(const std::function<void(int)>& run, double seconds);

  const DeviceLimits& device_;
  const GemmTunerOptions options_;
  Gemm gemm_;
  Stream stream_;
  Event begin_{Event::Timing::kOn}, end_{Event::Timing::kOn};
  DeviceBuffer weights_, a_, out_, workspace_;
};

}  // namespace nanoflow::cuda
