#include "backend/cuda/random_fill.h"

#include <cuda_runtime.h>

#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

__global__ void fill_kernel(uint16_t* to, int64_t count, uint64_t seed, int exponent, bool half) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    to[i] = random_element(seed, i, exponent, half);
}

}  // namespace

void fill_random(void* to, int64_t count, uint64_t seed, int exponent, bool half,
                 cudaStream_t stream) {
  fill_kernel<<<1024, 256, 0, stream>>>(static_cast<uint16_t*>(to), count, seed, exponent, half);
  check_launch("random numbers");
}

}  // namespace nanoflow::cuda
