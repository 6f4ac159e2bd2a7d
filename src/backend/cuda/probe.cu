#include <cuda_runtime.h>

#include "backend/cuda/probe.h"

namespace nanoflow::cuda {
namespace {

__global__ void probe_kernel() {}

}  // namespace

bool has_kernel_image() {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe_kernel);
  (void)cudaGetLastError();
  return status == cudaSuccess;
}

}  // namespace nanoflow::cuda
