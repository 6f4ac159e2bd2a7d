// The work list of a prefill launch, made on the device from the step's row arrays, since a
// captured graph sees other chunks at every replay: tiles of rows of one sequence, longest first,
// which the blocks of the prefill kernels then take in turns.
#include <cuda_runtime.h>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

constexpr int kThreads = 1024;
/// Costs in eighths of powers of two: tiles of one bucket differ by at most an eighth.
constexpr int kBuckets = 8 * 32;

__device__ int bucket_of(int pages) {
  const int log = 31 - __clz(pages | 8);
  return log * 8 + (pages >> (log - 3)) % 8;
}

/// Inclusive sum (kMax false) or maximum of `value` over the block's threads; total in `total`.
template <bool kMax>
__device__ int block_scan(int value, int* warp_values, int& total) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const auto combine = [](int a, int b) { return kMax ? max(a, b) : a + b; };
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value = combine(value, other);
  }
  __syncthreads();
  if (lane == 31) warp_values[warp] = value;
  __syncthreads();
  if (warp == 0) {
    int sum = warp_values[lane];
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum = combine(sum, other);
    }
    warp_values[lane] = sum;
  }
  __syncthreads();
  total = warp_values[31];
  return warp == 0 ? value : combine(value, warp_values[warp - 1]);
}

__global__ void __launch_bounds__(kThreads)
    plan_kernel(const AttentionParams p, int per_tile, int capacity) {
  __shared__ int warp_values[32];
  __shared__ int counts[kBuckets];
  auto* plan = static_cast<PrefillPlan*>(p.workspace);
  auto* sorted = reinterpret_cast<PrefillTile*>(plan + 1);
  PrefillTile* found = sorted + capacity;
  const int thread = static_cast<int>(threadIdx.x);
  const RowSpan rows = prefill_rows(p);
  for (int i = thread; i < kBuckets; i += kThreads) counts[i] = 0;
  const auto pages_of = [&](const PrefillTile& t) {
    const int end = t.position + t.rows;
    const int begin = p.window > 0 ? max(0, t.position + 1 - p.window) : 0;
    return (end - begin) / kAttentionPage + 1;
  };
  int chunk_begin = rows.begin, num_tiles = 0;  // of the rows before this round
  for (int round = rows.begin; round < rows.end; round += kThreads) {
    const int row = round + thread;
    const bool live = row < rows.end;
    const bool begins = live && (row == rows.begin || p.row_seq[row] != p.row_seq[row - 1]);
    int last_begin, num_new;
    const int begin = max(chunk_begin, block_scan<true>(begins ? row : 0, warp_values, last_begin));
    const bool opens = live && (row - begin) % per_tile == 0;
    const int index = num_tiles + block_scan<false>(opens ? 1 : 0, warp_values, num_new) - 1;
    if (opens) {
      found[index].row = row;
      found[index].position = p.positions[row];
      found[index].page_base = p.page_indptr[p.row_seq[row]];
    }
    // The tile's last row closes it; it may lie in a later round than the first.
    const bool closes = live && (row + 1 == rows.end || (row + 1 - begin) % per_tile == 0 ||
                                 p.row_seq[row + 1] != p.row_seq[row]);
    if (closes) found[index].rows = (row - begin) % per_tile + 1;
    chunk_begin = max(chunk_begin, last_begin);
    num_tiles += num_new;
  }
  __syncthreads();
  for (int i = thread; i < num_tiles; i += kThreads)
    atomicAdd(&counts[bucket_of(pages_of(found[i]))], 1);
  __syncthreads();
  // Where each bucket begins, the most expensive one first.
  const int bucket = kBuckets - 1 - thread;
  const int count = bucket >= 0 ? counts[bucket] : 0;
  int all;
  const int up_to = block_scan<false>(count, warp_values, all);
  if (bucket >= 0) counts[bucket] = up_to - count;
  if (thread == 0) plan->num_tiles = num_tiles;
  __syncthreads();
  for (int i = thread; i < num_tiles; i += kThreads)
    sorted[atomicAdd(&counts[bucket_of(pages_of(found[i]))], 1)] = found[i];
}

}  // namespace

void launch_prefill_plan(const AttentionParams& params, int tokens_per_tile, cudaStream_t stream) {
  plan_kernel<<<1, kThreads, 0, stream>>>(params, tokens_per_tile, params.num_rows);
  check_launch("the plan of prefill attention");
}

int64_t prefill_workspace(int64_t rows) {
  return static_cast<int64_t>(sizeof(PrefillPlan)) +
         2 * rows * static_cast<int64_t>(sizeof(PrefillTile));
}

}  // namespace nanoflow::cuda
