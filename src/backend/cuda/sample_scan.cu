// First kernel of sampling: every logit is read once, at the rate of the memory.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/sample.cuh"

namespace nanoflow::cuda::sampling {
namespace {

constexpr int kPerThread = kChunk / kScanThreads;

struct Shared {
  Winner winners[kScanThreads / 32];
  float floats[kScanThreads / 32];
  uint32_t bound;  ///< order_key of a sum that the best one reaches
};

/// Id of a thread's j-th value within its chunk. With 16-byte loads four of them are neighbours.
template <int N>
__device__ __forceinline__ int id_in_chunk(int j) {
  return (j / N * kScanThreads + static_cast<int>(threadIdx.x)) * N + j % N;
}

template <int N>
__device__ __forceinline__ void load_chunk(const float* logits, int count, float (&x)[kPerThread]) {
#pragma unroll
  for (int j = 0; j < kPerThread; j += N) {
    const int id = id_in_chunk<N>(j);
    if (id + N <= count) {
      const Vec<float, N> v = load_vec<float, N>(logits + id);
#pragma unroll
      for (int i = 0; i < N; ++i) x[j + i] = v.at[i];
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) x[j + i] = id + i < count ? logits[id + i] : -INFINITY;
    }
  }
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) x[j] = clean(x[j]);
}

__device__ __forceinline__ float chunk_max(const float (&x)[kPerThread], Shared& shared) {
  float best = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) best = fmaxf(best, x[j]);
  return block_combine(best, shared.floats, -INFINITY, [](float v) { return warp_max(v); });
}

/// `best`, or the token `id` whose noise has these bits, if its sum is higher; out of line as the
/// noise is. Raises the bound of the block.
__device__ __noinline__ Winner try_token(Winner best, float logit, float temperature, uint32_t bits,
                                         int id, uint32_t* bound) {
  const float value = logit / temperature + gumbel(bits);
  if (!(value > best.value)) return best;
  atomicMax(bound, order_key(value));
  return {value, id};
}

template <int N>
__device__ __forceinline__ Winner greedy_best(const float (&x)[kPerThread]) {
  Winner best{-INFINITY, id_in_chunk<N>(0)};
#pragma unroll
  for (int j = 0; j < kPerThread; ++j)  // ids rise, so the first of equal values stays
    if (x[j] > best.value) best = {x[j], id_in_chunk<N>(j)};
  return best;
}

/// argmax of x / temperature + noise.
template <int N>
__device__ __forceinline__ Winner noisy_best(const float (&x)[kPerThread], const SamplingRow& row,
                                             int first_id, float max, Shared& shared) {
  const uint64_t key = noise_key(row.seed, row.position);
  const float temperature = row.temperature, inverse = 1.0f / temperature;
  if (threadIdx.x == 0) shared.bound = order_key(max / temperature + kLeastNoise);
  __syncthreads();
  const volatile uint32_t* const bound_key = &shared.bound;
  Winner best{-INFINITY, id_in_chunk<N>(0)};
#pragma unroll
  for (int group = 0; group < kPerThread; group += 4) {
    const float limit = exceed_limit(key_value(*bound_key));
#pragma unroll
    for (int j = group; j < group + 4; ++j) {
      const int id = id_in_chunk<N>(j);
      const uint32_t bits = noise_bits(key, first_id + id);
      if (!cannot_exceed(x[j] * inverse, bits, limit))
        best = try_token(best, x[j], temperature, bits, id, &shared.bound);
    }
  }
  return best;
}

template <int N>
__global__ void __launch_bounds__(kScanThreads, 4) scan_kernel(Params p) {
  __shared__ Shared shared;
  const int64_t work = static_cast<int64_t>(p.live_rows()) * p.chunks;
  for (int64_t item = blockIdx.x; item < work; item += gridDim.x) {
    const int t = static_cast<int>(item / p.chunks), chunk = static_cast<int>(item % p.chunks);
    const SamplingRow& row = p.row(t);
    const bool simple = is_simple(row, p.vocab), report = wants_report(row);
    if (!simple && !report) continue;
    const int first_id = chunk * kChunk;
    float x[kPerThread];
    load_chunk<N>(p.logits + t * p.logits_stride + first_id, p.vocab - first_id, x);
    const bool noisy = simple && row.temperature > 0;
    Partial partial{{-INFINITY, first_id}, -3e38f, 0};
    float max = 0;
    if (noisy || report) max = chunk_max(x, shared);
    if (simple) {
      Winner best = noisy ? noisy_best<N>(x, row, first_id, max, shared) : greedy_best<N>(x);
      best.id += first_id;
      partial.best = block_combine(best, shared.winners, Winner{-INFINITY, INT_MAX},
                                   [](const Winner& w) { return warp_best(w); });
    }
    if (report) {
      partial.max = fmaxf(max, -3e38f);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kPerThread; ++j) sum += expf(x[j] - partial.max);
      partial.sum = block_combine(sum, shared.floats, 0.0f, [](float v) { return warp_sum(v); });
    }
    if (threadIdx.x == 0) p.partials[item] = partial;
  }
}

}  // namespace

void launch_scan(const Params& params, int64_t rows, const Launch& launch) {
  const int64_t resident = static_cast<int64_t>(launch.sms) * (2048 / kScanThreads);
  const auto blocks = static_cast<unsigned>(std::min(rows * params.chunks, resident));
  const bool aligned =
      reinterpret_cast<uintptr_t>(params.logits) % 16 == 0 && params.logits_stride % 4 == 0;
  if (aligned) {
    scan_kernel<4><<<blocks, kScanThreads, 0, launch.stream>>>(params);
  } else {
    scan_kernel<1><<<blocks, kScanThreads, 0, launch.stream>>>(params);
  }
  check_launch("the scan of the logits");
}

}  // namespace nanoflow::cuda::sampling
