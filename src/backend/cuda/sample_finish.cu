// Second kernel of sampling: a block per row joins what the first one found, and computes rows with
// penalties, bias or limits on a copy of their logits, as well as ranks and top logprobs.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/sample_limits.cuh"

namespace nanoflow::cuda::sampling {
namespace {

/// One row's copy of the logits in global memory, and the counts of its history.
struct Slot {
  float* scores;
  uint32_t* counts;
  int vocab;

  [[nodiscard]] __device__ __forceinline__ bool has(int id) const { return 0 <= id && id < vocab; }
};

__device__ __forceinline__ Winner block_best(Block& block, const Winner& own) {
  return block_combine(own, block.winners, Winner{-INFINITY, INT_MAX},
                       [](const Winner& w) { return warp_best(w); });
}

__device__ void add_bias(const Params& p, const SamplingRow& row, const Slot& slot) {
  for (int i = row.bias_begin + thread(); i < row.bias_end; i += kThreads)
    if (slot.has(p.bias_ids[i])) atomicAdd(&slot.scores[p.bias_ids[i]], p.bias_values[i]);
  __syncthreads();
  for (int i = row.forbid_eos_begin + thread(); i < row.bias_begin; i += kThreads)
    if (slot.has(p.bias_ids[i])) slot.scores[p.bias_ids[i]] = -INFINITY;
  __syncthreads();
}

/// visit(token, is_output) over the row's history, the pending token included.
template <typename Visit>
__device__ __forceinline__ void for_history(const Params& p, const SamplingRow& row,
                                            const Slot& slot, const Visit& visit) {
  for (int i = row.history_begin + thread(); i < row.history_end; i += kThreads)
    if (slot.has(p.history[i])) visit(p.history[i], i >= row.history_output_begin);
  if (thread() == 0 && row.pending_slot >= 0 && slot.has(p.last_token[row.pending_slot]))
    visit(p.last_token[row.pending_slot], true);
  __syncthreads();
}

/// Counts each token, then applies its penalties once: by whoever takes the count.
__device__ void apply_penalties(const Params& p, const SamplingRow& row, const Slot& slot) {
  constexpr uint32_t kTaken = ~0u;
  for_history(p, row, slot, [&](int id, bool) { slot.counts[id] = 0; });
  for_history(p, row, slot, [&](int id, bool is_output) {
    if (is_output) atomicAdd(&slot.counts[id], 1u);
  });
  for_history(p, row, slot, [&](int id, bool) {
    const uint32_t count = atomicExch(&slot.counts[id], kTaken);
    if (count == kTaken) return;
    float x = slot.scores[id];
    x = x > 0 ? __fdiv_rn(x, row.repetition_penalty) : __fmul_rn(x, row.repetition_penalty);
    if (count > 0)
      x = __fsub_rn(x, __fadd_rn(__fmul_rn(row.frequency_penalty, static_cast<float>(count)),
                                 row.presence_penalty));
    slot.scores[id] = x;
  });
}

/// Weight of a value at `best` is 2^44; 2^18 of them still fit 64 bits. Integers, so that the sum
/// is the same in any order.
struct FixedWeight {
  float best;

  __device__ __forceinline__ unsigned long long operator()(float x) const {
    return __float2ull_rn(expf(x - best) * 17592186044416.0f);
  }
};
struct UnitWeight {
  __device__ __forceinline__ unsigned long long operator()(float) const { return 1; }
};
struct All {
  __device__ __forceinline__ bool operator()(uint32_t, int) const { return true; }
};
struct Within {
  Prefix prefix;
  __device__ __forceinline__ bool operator()(uint32_t key, int id) const {
    return prefix.has(key, id);
  }
};

/// The `k` best values.
__device__ Prefix best_of(Block& block, const float* values, int count, float best, int k) {
  const Selection<UnitWeight, All> all{values, count, best, {}, {}};
  return select_prefix(block, all,
                       [k](unsigned long long) { return static_cast<unsigned long long>(k); });
}

/// The candidates that top-k and top-p leave.
__device__ Prefix limit(Block& block, const SamplingRow& row, const Slot& slot, float best) {
  Prefix prefix;
  if (has_top_k(row, slot.vocab)) prefix = best_of(block, slot.scores, slot.vocab, best, row.top_k);
  if (row.top_p >= 1) return prefix;
  const Selection<FixedWeight, Within> kept{slot.scores, slot.vocab, best, {best}, {prefix}};
  return select_prefix(block, kept, [p = row.top_p](unsigned long long total) {
    const auto wanted = __double2ull_ru(static_cast<double>(p) * static_cast<double>(total));
    return max(1ull, min(total, wanted));
  });
}

/// Copies the row's logits to the slot, with bias, penalties, mask and temperature; returns the best.
__device__ Winner fill_slot(Block& block, const Params& p, const SamplingRow& row, int t,
                            const Slot& slot) {
  const float temperature = row.temperature > 0 ? row.temperature : 1;
  const float* logits = p.logits + t * p.logits_stride;
  const bool edited = has_bias(row) || has_penalties(row);
  if (edited) {
    for_values(logits, p.vocab, [&](int id, float x) { slot.scores[id] = x; });
    __syncthreads();
    if (has_bias(row)) add_bias(p, row, slot);
    if (has_penalties(row)) apply_penalties(p, row, slot);
    logits = slot.scores;
  }
  const uint32_t* mask = has_mask(row) ? p.masks + row.mask * p.masks_stride : nullptr;
  Winner own{-INFINITY, INT_MAX};
  for_values(logits, p.vocab, [&](int id, float x) {
    x = clean(__fdiv_rn(x, temperature));
    if (mask != nullptr && (mask[id / 32] >> (id % 32) & 1U) == 0) x = -INFINITY;
    slot.scores[id] = x;
    own = better(own, Winner{x, id});
  });
  return block_best(block, own);
}

/// Bias, penalties, temperature, limits and noise: the token of a row that is not simple.
__device__ int choose(Block& block, const Params& p, const SamplingRow& row, int t,
                      const Slot& slot) {
  const Winner best = fill_slot(block, p, row, t, slot);
  if (row.temperature <= 0 || isinf(best.value)) return best.id;
  __syncthreads();
  const Prefix prefix = limit(block, row, slot, best.value);
  const uint64_t key = noise_key(row.seed, row.position);
  Winner own{-INFINITY, INT_MAX};
  for_values(slot.scores, p.vocab, [&](int id, float x) {
    if (!prefix.has(order_key(x), id)) return;
    if (row.min_p > 0 && x != best.value && expf(x - best.value) < row.min_p) return;
    const uint32_t bits = noise_bits(key, id);
    const float bound = fmaxf(own.value, best.value + kLeastNoise);
    if (cannot_exceed(x, bits, exceed_limit(bound))) return;
    own = better(own, Winner{x + gumbel(bits), id});
  });
  return block_best(block, own).id;
}

/// Up to `wanted` best logits, in order, in block.best.
__device__ void find_top(Block& block, const Params& p, int t, float best, int wanted) {
  const float* logits = p.logits + t * p.logits_stride;
  const Prefix prefix = best_of(block, logits, p.vocab, best, wanted);
  if (thread() == 0) block.num_best = 0;
  __syncthreads();
  for_values(logits, p.vocab, [&](int id, float x) {
    if (prefix.has(order_key(x), id)) block.best[atomicAdd(&block.num_best, 1)] = {x, id};
  });
  __syncthreads();
  if (thread() == 0)  // insertion sort of at most 20
    for (int i = 1; i < wanted; ++i) {
      const Winner moved = block.best[i];
      int at = i;
      for (; at > 0 && better(moved, block.best[at - 1]).id == moved.id; --at)
        block.best[at] = block.best[at - 1];
      block.best[at] = moved;
    }
  __syncthreads();
}

/// Logprob and rank of `id`, and the wanted top logprobs, of the unmodified logits.
__device__ void report(Block& block, const Params& p, const SamplingRow& row, int t, int id) {
  const Partial* partials = p.partials + static_cast<int64_t>(t) * p.chunks;
  float best = -3e38f;
  for (int c = 0; c < p.chunks; ++c) best = fmaxf(best, partials[c].max);
  double total = 0;
  for (int c = 0; c < p.chunks; ++c)
    total += static_cast<double>(partials[c].sum) *
             exp(static_cast<double>(partials[c].max) - static_cast<double>(best));
  const double log_total = log(total);
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x - best) - log_total);
  };
  const float* logits = p.logits + t * p.logits_stride;
  const float x = clean(logits[id]);
  int rank = 0;
  for_values(logits, p.vocab,
             [&](int i, float other) { rank += other > x || (other == x && i < id) ? 1 : 0; });
  rank = block_combine(rank, block.ints, 0, [](int v) { return warp_sum(v); });
  if (thread() == 0) {
    p.logprobs[t] = logprob(x);
    p.ranks[t] = rank;
  }
  const int wanted = min(min(row.num_logprobs, static_cast<int>(kMaxTopLogprobs)), p.vocab);
  if (wanted <= 0) return;
  find_top(block, p, t, best, wanted);
  if (thread() < wanted) {
    p.top_ids[t * p.top_ids_stride + thread()] = block.best[thread()].id;
    p.top_logprobs[t * p.top_logprobs_stride + thread()] = logprob(block.best[thread()].value);
  }
}

__device__ int join_chunks(const Params& p, int t) {
  const Partial* partials = p.partials + static_cast<int64_t>(t) * p.chunks;
  Winner best{-INFINITY, INT_MAX};
  for (int c = static_cast<int>(threadIdx.x % 32); c < p.chunks; c += 32)
    best = better(best, partials[c].best);
  return warp_best(best).id;
}

__global__ void __launch_bounds__(kThreads, 1) finish_kernel(Params p) {
  __shared__ Block block;
  const int live = p.live_rows();
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * p.slot_stride;
  const Slot slot{p.scores + offset, p.counts + offset, p.vocab};
  for (int t = static_cast<int>(blockIdx.x); t < live; t += static_cast<int>(gridDim.x)) {
    const SamplingRow& row = p.row(t);
    int id = row.target;
    if (id < 0) id = is_simple(row, p.vocab) ? join_chunks(p, t) : choose(block, p, row, t, slot);
    __syncthreads();  // last_token was read by all who needed it
    if (thread() == 0) {
      p.ids[t] = id;
      p.logprobs[t] = 0;
      p.ranks[t] = 0;
      if (row.target < 0 && row.slot >= 0) p.last_token[row.slot] = id;
    }
    if (thread() < kMaxTopLogprobs) {
      p.top_ids[t * p.top_ids_stride + thread()] = -1;
      p.top_logprobs[t * p.top_logprobs_stride + thread()] = -INFINITY;
    }
    __syncthreads();
    if (wants_report(row)) report(block, p, row, t, min(id, p.vocab - 1));
    __syncthreads();
  }
}

}  // namespace

void launch_finish(const Params& params, int blocks, const Launch& launch) {
  finish_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, launch.stream>>>(params);
  check_launch("the choice of tokens");
}

}  // namespace nanoflow::cuda::sampling
