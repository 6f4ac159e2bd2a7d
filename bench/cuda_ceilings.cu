#include "cuda_ceilings.h"

#include <cuda_runtime.h>

namespace nanoflow::bench {
namespace {

constexpr int kThreads = 512, kLoads = 8;

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* data, int64_t count, float* sink) {
  uint32_t x = 0;
  const int64_t step = int64_t{kThreads} * kLoads;
  for (int64_t at = blockIdx.x * step + threadIdx.x; at < count; at += gridDim.x * step) {
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) v[i] = __ldcs(data + at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) x ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (x == 0x9e3779b9u) *sink = 1;  // keeps the loads
}

}  // namespace

void read_memory(const void* data, int64_t bytes, int sms, float* sink, cudaStream_t stream) {
  read_kernel<<<static_cast<unsigned>(sms * 4), kThreads, 0, stream>>>(
      static_cast<const uint4*>(data), bytes / 16, sink);
}

}  // namespace nanoflow::bench
