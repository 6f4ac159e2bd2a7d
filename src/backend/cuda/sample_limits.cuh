// Selection among one row's values by a whole block: the best k of them, or the shortest prefix of
// the falling order that reaches a weight. Nothing is sorted: a histogram over the distance from
// the best value finds where the prefix ends, and only the values of that bucket are compared with
// each other. Where they are too many (ties, values far from the best), a radix select takes over.
#pragma once

#include "backend/cuda/sample.cuh"

namespace nanoflow::cuda::sampling {

constexpr int kThreads = 512;  // with 1,024 the 64 registers spilled
constexpr int kWarps = kThreads / 32;
constexpr int kBuckets = 2048;
constexpr int kListed = 2048;
/// Buckets per unit of score: 2,048 of them reach 32 below the best, where weights are 1e-14 of it.
constexpr float kBucketsPerUnit = 64;

/// Shared memory of the second kernel.
struct Block {
  uint32_t low[kBuckets], high[kBuckets];  ///< of 64-bit weights
  Winner list[kListed];
  int num_listed;
  unsigned long long sums[kWarps];
  Winner winners[kWarps];
  int ints[kWarps];
  int digit;
  unsigned long long above;
  uint32_t key;
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

__device__ __forceinline__ int thread() {
  return static_cast<int>(threadIdx.x);
}

/// visit(id, value) for all values, over the block. A batch is loaded before its first visit: what
/// visits write keeps the compiler from moving later loads up, and one load at a time waits for the
/// memory 8 times as often.
template <typename Visit>
__device__ __forceinline__ void for_values(const float* values, int count, const Visit& visit) {
  constexpr int kBatch = 8;  // 64 KiB in flight per block
  const int whole = reinterpret_cast<uintptr_t>(values) % 16 == 0 ? count / 4 : 0;
  for (int base = thread(); base < whole; base += kBatch * kThreads) {
    Vec<float, 4> batch[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (base + j * kThreads < whole)
        batch[j] = load_vec<float, 4>(values + 4 * static_cast<int64_t>(base + j * kThreads));
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      if (base + j * kThreads >= whole) break;
#pragma unroll
      for (int i = 0; i < 4; ++i) visit(4 * (base + j * kThreads) + i, clean(batch[j].at[i]));
    }
  }
  for (int base = 4 * whole + thread(); base < count; base += kBatch * kThreads) {
    float batch[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (base + j * kThreads < count) batch[j] = values[base + j * kThreads];
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (base + j * kThreads < count) visit(base + j * kThreads, clean(batch[j]));
  }
}

/// Adds 64 bits by 32-bit atomics, which shared memory has in hardware.
__device__ __forceinline__ void add_weight(Block& block, int digit, unsigned long long weight) {
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t before = atomicAdd(&block.low[digit], low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1u : 0u);
  if (high != 0) atomicAdd(&block.high[digit], high);
}

__device__ __forceinline__ unsigned long long weight_at(const Block& block, int digit) {
  return static_cast<unsigned long long>(block.high[digit]) << 32 | block.low[digit];
}

__device__ __forceinline__ void clear_weights(Block& block) {
  for (int i = thread(); i < kBuckets; i += kThreads) block.low[i] = block.high[i] = 0;
  __syncthreads();
}

/// Finds the highest digit whose weight together with that of all higher ones reaches
/// need_of(weight of all), which is returned. Sets block.digit, and block.above: the weight of the
/// higher digits.
template <typename NeedOf>
__device__ inline unsigned long long find_digit(Block& block, const NeedOf& need_of) {
  constexpr int kOwned = kBuckets / kThreads;
  const int top = kBuckets - 1 - kOwned * thread();  // thread 0 owns the highest digits
  unsigned long long own = 0;
#pragma unroll
  for (int i = 0; i < kOwned; ++i) own += weight_at(block, top - i);
  unsigned long long sum = own;
  const int lane = thread() % 32, warp = thread() / 32;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) block.sums[warp] = sum;
  __syncthreads();
  unsigned long long total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) sum += total;
    total += block.sums[w];
  }
  const unsigned long long need = need_of(total);
  unsigned long long above = sum - own;
  if (above < need && need <= sum) {
    int digit = top;
    for (; above + weight_at(block, digit) < need; --digit) above += weight_at(block, digit);
    block.digit = digit;
    block.above = above;
  }
  __syncthreads();
  return need;
}

/// One row's values, and those of them that a selection is about.
template <typename Weight, typename InSet>
struct Selection {
  const float* values;
  int count;
  float best;        ///< the largest value
  Weight weight_of;  ///< of a value; equal values have equal weights
  InSet in_set;      ///< (key, id)

  /// Higher for better values; the last bucket holds all that is far from the best.
  [[nodiscard]] __device__ __forceinline__ int digit(float x) const {
    if (isinf(best)) return 0;
    const float depth = fminf((best - x) * kBucketsPerUnit, kBuckets - 1);
    return kBuckets - 1 - static_cast<int>(depth);
  }
};

/// Id of the `nth` (from 1) value of the selection whose key is `key`.
template <typename Selected>
__device__ inline int nth_equal(Block& block, const Selected& s, uint32_t key,
                                unsigned long long nth) {
  unsigned long long before = 0;
  if (thread() == 0) block.cut = INT_MAX;
  const int lane = thread() % 32, warp = thread() / 32;
  for (int base = 0; base < s.count && before < nth; base += kThreads) {
    const int id = base + thread();
    const bool equal = id < s.count && order_key(clean(s.values[id])) == key && s.in_set(key, id);
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

/// The prefix of the values of bucket `digit` that reaches `need`, by their bits.
template <typename Selected>
__device__ inline Prefix radix_select(Block& block, const Selected& s, int digit,
                                      unsigned long long need) {
  constexpr int kShifts[] = {21, 10, 0};
  constexpr uint32_t kMasks[] = {0x7ffu, 0x7ffu, 0x3ffu};
  uint32_t key = 0, known = 0;  // `known` masks the bits of `key` that are decided
  unsigned long long equal_weight = 0;
#pragma unroll 1
  for (int level = 0; level < 3; ++level) {
    clear_weights(block);
    for_values(s.values, s.count, [&](int id, float x) {
      const uint32_t k = order_key(x);
      if ((k & known) != key || s.digit(x) != digit || !s.in_set(k, id)) return;
      const unsigned long long weight = s.weight_of(x);
      if (weight != 0) add_weight(block, (k >> kShifts[level]) & kMasks[level], weight);
    });
    __syncthreads();
    (void)find_digit(block, [need](unsigned long long) { return need; });
    key |= static_cast<uint32_t>(block.digit) << kShifts[level];
    known |= kMasks[level] << kShifts[level];
    need -= block.above;
    equal_weight = weight_at(block, block.digit);
    __syncthreads();
  }
  Prefix prefix{key};
  const unsigned long long weight = s.weight_of(key_value(key));
  const unsigned long long equal = equal_weight / weight, wanted = (need + weight - 1) / weight;
  if (wanted < equal) prefix.cut = nth_equal(block, s, key, wanted);
  return prefix;
}

/// The shortest prefix of the selection whose weight reaches need_of(weight of all), which must lie
/// from 1 to the weight of all.
template <typename Selected, typename NeedOf>
__device__ inline Prefix select_prefix(Block& block, const Selected& s, const NeedOf& need_of) {
  clear_weights(block);
  for_values(s.values, s.count, [&](int id, float x) {
    if (!s.in_set(order_key(x), id)) return;
    const unsigned long long weight = s.weight_of(x);
    if (weight != 0) add_weight(block, s.digit(x), weight);
  });
  if (thread() == 0) block.num_listed = 0;
  __syncthreads();
  const unsigned long long need = find_digit(block, need_of);
  const int digit = block.digit;
  const unsigned long long above = block.above;
  for_values(s.values, s.count, [&](int id, float x) {
    if (s.digit(x) != digit || !s.in_set(order_key(x), id)) return;
    const int at = atomicAdd(&block.num_listed, 1);
    if (at < kListed) block.list[at] = {x, id};
  });
  __syncthreads();
  const int listed = block.num_listed;
  if (listed > kListed) return radix_select(block, s, digit, need - above);
  for (int i = thread(); i < listed; i += kThreads) {
    const Winner own = block.list[i];
    unsigned long long sum = above;
    for (int j = 0; j < listed; ++j) {
      const Winner other = block.list[j];
      const bool is_better =
          other.value > own.value || (other.value == own.value && other.id < own.id);
      if (is_better) sum += s.weight_of(other.value);
    }
    if (sum < need && need <= sum + s.weight_of(own.value)) {
      block.key = order_key(own.value);
      block.cut = own.id;
    }
  }
  __syncthreads();
  return {block.key, block.cut};
}

}  // namespace nanoflow::cuda::sampling
