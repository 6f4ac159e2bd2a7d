// What the GPU's memory really gives: the ceiling that memory-bound kernels are set against.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nanoflow::cuda {

/// Reads `bytes` (a multiple of 64 KiB) of device memory once, by bulk-sized vector loads on all
/// SMs. `sink` is one float of device memory. Asynchronous; throws CudaError when the launch is
/// refused.
void read_memory(const void* data, int64_t bytes, int sms, float* sink, cudaStream_t stream);

}  // namespace nanoflow::cuda
