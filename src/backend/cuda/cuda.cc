#include "backend/cuda/cuda.h"

#include <fmt/format.h>

namespace nanoflow::cuda {

void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();  // a refused call must not be reported again by the next launch
  if (status == cudaErrorMemoryAllocation)
    throw OutOfMemory(fmt::format("CUDA: no memory left for {}", what));
  throw CudaError(fmt::format("CUDA: {} failed: {} ({})", what, cudaGetErrorString(status),
                              cudaGetErrorName(status)));
}

void check_work(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();
  throw CudaError(fmt::format(
      "CUDA: {} failed: {} ({}); to learn which operation it is, run it again with --enforce-eager "
      "and CUDA_LAUNCH_BLOCKING=1 in the environment",
      what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) [[unlikely]]
    throw CudaError(fmt::format("CUDA: launching {} failed: {} ({})", kernel,
                                cudaGetErrorString(status), cudaGetErrorName(status)));
}

}  // namespace nanoflow::cuda
