// What the GPU at hand really gives, for ratios of the same run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nanoflow::bench {

/// Reads `bytes` (a multiple of 64 KiB) of device memory once, by bulk-sized vector loads on all
/// SMs. `sink` is one float of device memory.
void read_memory(const void* data, int64_t bytes, int sms, float* sink, cudaStream_t stream);

}  // namespace nanoflow::bench
