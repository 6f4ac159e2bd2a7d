// Random 16-bit numbers that the host computes as the GPU fills memory with them, so that any
// element of a large operand can be checked without copying it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#if defined(__CUDACC__)
#define NANO_BOTH __host__ __device__
#else
#define NANO_BOTH
#endif

namespace nanoflow::cuda {

/// Bits of the i-th number: about N(0, 591) * 2^exponent, with a full mantissa; fp16 if `half`,
/// else bf16. `exponent` is -24 to 4.
NANO_BOTH inline uint16_t random_element(uint64_t seed, int64_t i, int exponent, bool half) {
  // splitmix64 (Steele et al. 2014).
  uint64_t x = (seed << 48) + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15U;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
  x = (x ^ x >> 27) * 0x94d049bb133111ebU;
  x ^= x >> 31;
  const auto sum =
      static_cast<int>((x & 1023) + (x >> 10 & 1023) + (x >> 20 & 1023) + (x >> 30 & 1023)) - 2046;
  const uint32_t sign = sum < 0 ? 0x8000 : 0;
  auto magnitude = static_cast<uint32_t>(sum < 0 ? -sum : sum);
  if (magnitude == 0) return static_cast<uint16_t>(sign);
  int top = 10;
  while ((magnitude >> top) == 0) --top;
  if (!half) {
    const uint32_t mantissa = (magnitude << (10 - top)) >> 3 & 127;  // the lowest bits are cut
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(top + exponent + 127) << 7 |
                                 mantissa);
  }
  if (top + exponent < -14)
    return static_cast<uint16_t>(sign | magnitude << (exponent + 24));  // subnormal
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(top + exponent + 15) << 10 |
                               (magnitude << (10 - top) & 1023));
}

/// Asynchronous; throws CudaError when the launch is refused: to[i] = random_element(seed, i,
/// exponent, half) for i < count.
void fill_random(void* to, int64_t count, uint64_t seed, int exponent, bool half,
                 cudaStream_t stream);

}  // namespace nanoflow::cuda
