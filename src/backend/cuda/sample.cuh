// What the two kernels of sampling share. The first reads every logit once and leaves per chunk the
// winner of the simple rows and the sums that logprobs need; the second, one block per row, joins
// them and computes what is not simple (sample_limits.cuh).
#pragma once

#include "backend/cuda/element.cuh"
#include "ops/sampling_noise.h"

namespace nanoflow::cuda::sampling {

/// Logits of one item of the first kernel: eight 16-byte loads per thread in flight.
constexpr int kScanThreads = 256;
constexpr int kChunk = kScanThreads * 32;

/// A token and the value it is compared by.
struct Winner {
  float value;
  int id;
};

/// What the first kernel says of one chunk of one row.
struct Partial {
  Winner best;  ///< of a simple row
  float max;    ///< of the logits, at least -3e38; of a row that reports
  float sum;    ///< of exp(logit - max)
};

struct Params {
  int32_t* ids;
  float* logprobs;
  int32_t* ranks;
  int32_t* top_ids;
  float* top_logprobs;
  int64_t top_ids_stride, top_logprobs_stride;
  const float* logits;
  int64_t logits_stride;
  int vocab;
  int chunks;  ///< per row
  const std::byte* rows;
  int64_t rows_pitch;  ///< bytes
  const int32_t *history, *bias_ids;
  const float* bias_values;
  const uint32_t* masks;
  int64_t masks_stride;  ///< words
  int32_t* last_token;
  const StepHeader* step_header;
  int first_row;  ///< of the range, in the sample graph
  LiveRows live;
  Partial* partials;    ///< [rows, chunks]
  float* scores;        ///< [blocks of the second kernel, slot_stride]
  uint32_t* counts;     ///< [blocks of the second kernel, slot_stride]
  int64_t slot_stride;  ///< vocab, rounded up to 16 bytes

  [[nodiscard]] __device__ __forceinline__ int live_rows() const {
    const int rows_live = live.count();
    if (step_header == nullptr) return rows_live;
    return min(max(step_header->num_samples - first_row, 0), rows_live);
  }
  [[nodiscard]] __device__ __forceinline__ const SamplingRow& row(int t) const {
    return *reinterpret_cast<const SamplingRow*>(rows + (first_row + t) * rows_pitch);
  }
};

__device__ __forceinline__ bool has_penalties(const SamplingRow& row) {
  return row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0;
}
__device__ __forceinline__ bool has_bias(const SamplingRow& row) {
  return row.bias_end > row.forbid_eos_begin;
}
__device__ __forceinline__ bool has_top_k(const SamplingRow& row, int vocab) {
  return row.top_k > 0 && row.top_k < vocab;
}
__device__ __forceinline__ bool has_mask(const SamplingRow& row) {
  return row.mask >= 0;
}
/// The first kernel chooses the token: greedy, or temperature without limits.
__device__ __forceinline__ bool is_simple(const SamplingRow& row, int vocab) {
  if (row.target >= 0 || has_penalties(row) || has_bias(row) || has_mask(row)) return false;
  return row.temperature <= 0 || (!has_top_k(row, vocab) && row.top_p >= 1 && row.min_p <= 0);
}
__device__ __forceinline__ bool wants_report(const SamplingRow& row) {
  return row.num_logprobs >= 0 || row.target >= 0;
}

/// NaN counts as -infinity, and -0 equals 0.
__device__ __forceinline__ float clean(float x) {
  return isnan(x) ? -INFINITY : x + 0.0f;
}

/// The noise of ops/sampling_noise.h. Out of line: it is seldom needed, and 32 copies of it in an
/// unrolled loop would not fit the instruction cache.
__device__ __noinline__ inline float gumbel(uint32_t bits) {
  return -logf(-log1pf(-noise_uniform(bits)));
}

constexpr float kLeastNoise = -2.83f;  // see ops/sampling_noise.h

/// What cannot_exceed() compares with, for sums that must exceed `bound`. The margin covers the
/// rounding of the sum and of the fast functions.
__device__ __forceinline__ float exceed_limit(float bound) {
  return bound - (1e-4f + 4e-7f * fabsf(bound));
}
/// True only if score + noise stays below the bound of `limit`. Since -log1p(-u) >= u, the sum
/// reaches it only where u <= exp(score - bound), so the two logarithms are seldom needed. The
/// upper 23 bits of the noise are a lower limit of u that costs no conversion.
__device__ __forceinline__ bool cannot_exceed(float score, uint32_t bits, float limit) {
  const float one_plus_u = __uint_as_float(bits >> 9 | 0x3f800000u);
  return one_plus_u - 1.0f > __expf(score - limit);
}

/// Bits whose unsigned order is that of the floats.
__device__ __forceinline__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

/// Higher value first, then lower id.
__device__ __forceinline__ Winner better(const Winner& a, const Winner& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id) ? a : b;
}
__device__ __forceinline__ Winner warp_best(Winner w) {
  for (int step = 16; step > 0; step /= 2) {
    const Winner other{__shfl_xor_sync(~0u, w.value, step), __shfl_xor_sync(~0u, w.id, step)};
    w = better(w, other);
  }
  return w;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
template <typename Number>
__device__ __forceinline__ Number warp_sum(Number x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

/// The block's result in every thread. `shared` has an entry per warp; all threads call.
template <typename Value, typename Combine>
__device__ __forceinline__ Value block_combine(Value x, Value* shared, Value neutral,
                                               const Combine& warp_combine) {
  x = warp_combine(x);
  __syncthreads();  // earlier readers of `shared` are done
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : neutral;
  return warp_combine(x);
}

/// The two kernels; `blocks` of the second is how many slots scores and counts have.
void launch_scan(const Params& params, int64_t rows, const Launch& launch);
void launch_finish(const Params& params, int blocks, const Launch& launch);

}  // namespace nanoflow::cuda::sampling
