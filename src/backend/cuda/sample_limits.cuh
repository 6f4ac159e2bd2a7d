// Selection among one row's values by a whole block: the best k of them, or the shortest prefix of
// the falling order that reaches a weight. A radix select by weight, so nothing is sorted; equal
// values are told apart by their ids.
#pragma once

#include "backend/cuda/sample.cuh"

namespace nanoflow::cuda::sampling {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBuckets = 2048;

/// Shared memory of the second kernel.
struct Block {
  unsigned long long weights[kBuckets];
  unsigned long long sums[kWarps];
  Winner winners[kWarps];
  int ints[kWarps];
  int digit;
  unsigned long long above;
  int cut;
  int num_best;
  Winner best[kMaxTopLogprobs];
};

/// A prefix of the falling order: values above `key`, and those equal to it with id <= cut.
struct Prefix {
  uint32_t key = 0;
  int cut = INT_MAX;

  [[nodiscard]] __device__ __forceinline__ bool has(uint32_t k, int id) const {
    return k > key || (k == key && id <= cut);
  }
};

/// Finds the highest digit whose weight together with that of all higher ones reaches `need`;
/// block.digit, and block.above: the weight of the higher ones.
__device__ inline void find_digit(Block& block, unsigned long long need) {
  // Thread i owns the buckets 2i' and 2i' + 1 from the top, i' = kThreads - 1 - i.
  const int low = kBuckets - 2 - 2 * static_cast<int>(threadIdx.x);
  const unsigned long long high_weight = block.weights[low + 1], low_weight = block.weights[low];
  const unsigned long long own = high_weight + low_weight;
  unsigned long long sum = own;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) block.sums[warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += block.sums[w];
  const unsigned long long above = sum - own;
  if (above < need && need <= sum) {
    const bool is_high = above + high_weight >= need;
    block.digit = is_high ? low + 1 : low;
    block.above = is_high ? above : above + high_weight;
  }
  __syncthreads();
}

/// Id of the `nth` (from 1) value whose key is `key`, among those `in_set`.
template <typename Key, typename InSet>
__device__ inline int nth_equal(Block& block, int count, uint32_t key, unsigned long long nth,
                                const Key& key_of, const InSet& in_set) {
  unsigned long long before = 0;
  if (threadIdx.x == 0) block.cut = INT_MAX;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int base = 0; base < count && before < nth; base += kThreads) {
    const int id = base + static_cast<int>(threadIdx.x);
    const bool equal = id < count && key_of(id) == key && in_set(key, id);
    const unsigned ballot = __ballot_sync(~0u, equal);
    __syncthreads();
    if (lane == 0) block.ints[warp] = __popc(ballot);
    __syncthreads();
    int in_block = 0, in_warps = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) in_warps = in_block;
      in_block += block.ints[w];
    }
    const unsigned long long rank =
        before + static_cast<unsigned>(in_warps + __popc(ballot & ((2u << lane) - 1)));
    if (equal && rank == nth) block.cut = id;
    before += static_cast<unsigned>(in_block);
  }
  __syncthreads();
  return block.cut;
}

/// The shortest prefix whose weight reaches `need` (from 1 to the weight of all). Equal keys have
/// equal weights; values outside `in_set` or of weight 0 do not count.
template <typename Key, typename Weight, typename InSet>
__device__ inline Prefix select_prefix(Block& block, int count, unsigned long long need,
                                       const Key& key_of, const Weight& weight_of,
                                       const InSet& in_set) {
  constexpr int kShifts[] = {21, 10, 0};
  constexpr uint32_t kMasks[] = {0x7ffu, 0x7ffu, 0x3ffu};
  uint32_t key = 0, known = 0;  // `known` masks the bits of `key` that are decided
  unsigned long long equal_weight = 0;
#pragma unroll 1
  for (int level = 0; level < 3; ++level) {
    for (int i = static_cast<int>(threadIdx.x); i < kBuckets; i += kThreads) block.weights[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int id = static_cast<int>(threadIdx.x); id < count; id += kThreads) {
      const uint32_t k = key_of(id);
      if ((k & known) != key || !in_set(k, id)) continue;
      const unsigned long long weight = weight_of(k);
      if (weight != 0) atomicAdd(&block.weights[(k >> kShifts[level]) & kMasks[level]], weight);
    }
    __syncthreads();
    find_digit(block, need);
    key |= static_cast<uint32_t>(block.digit) << kShifts[level];
    known |= kMasks[level] << kShifts[level];
    need -= block.above;
    equal_weight = block.weights[block.digit];
    __syncthreads();
  }
  Prefix prefix{key};
  const unsigned long long weight = weight_of(key);
  const unsigned long long equal = equal_weight / weight;
  const unsigned long long wanted = (need + weight - 1) / weight;
  if (wanted < equal) prefix.cut = nth_equal(block, count, key, wanted, key_of, in_set);
  return prefix;
}

}  // namespace nanoflow::cuda::sampling
