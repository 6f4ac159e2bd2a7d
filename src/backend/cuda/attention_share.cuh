// How decode attention shares its tiles out: a block's layout of shared memory, its part of the
// line of all (row, KV head, page) tiles, the walk along it, and the parts of sequences that
// borders cut.
#pragma once

#include <algorithm>

#include "backend/cuda/attention_kernels.h"

namespace nanoflow::cuda::decode {

constexpr int kGroupWarps = kAttentionPage / 16;

/// Four-warp groups of a block: while one adds its warps' results, another goes on with the stream.
constexpr int tile_groups(int head_dim) {
  return head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
}
constexpr int consumer_warps(int head_dim) {
  return tile_groups(head_dim) * kGroupWarps;
}
constexpr int block_threads(int head_dim) {
  return (consumer_warps(head_dim) + 1) * 32;
}

/// Columns between rows of the merge buffer: 4 more keep a warp's stores free of conflicts.
constexpr int merge_stride(int head_dim) {
  return head_dim + 4;
}

/// Shared memory of a block: stages [K tile | V tile | Q rows], then the merge buffer, then
/// control.
struct Plan {
  int stages = 0;
  int stage_bytes = 0;
  int merge_rows = 0;  ///< query heads merged at a time
  int bytes = 0;
};

constexpr int kMaxStages = 16;

struct Control {
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
  uint64_t turn[4];  ///< a group may look at the ring: the one before it has seen its last tile
  int64_t total;     ///< tiles of the launch
  int64_t end;       ///< of this block's share of them
  int sharing;       ///< blocks that have a share
  int warp_sums[32];
  int row, head, tile;
  float max[16][8];  ///< by consumer warp
  float sum[16][8];
};

inline Plan plan_shared(int group, int head_dim, int compiled, int64_t limit) {
  Plan plan;
  const int tile = kAttentionPage * compiled * 2;
  plan.stage_bytes = 2 * tile + (group * head_dim * 2 + 1023) / 1024 * 1024;
  plan.merge_rows = std::min(group, 8);
  const int fixed = consumer_warps(compiled) * plan.merge_rows * merge_stride(compiled) * 4 +
                    static_cast<int>(sizeof(Control)) + 1024;
  plan.stages = static_cast<int>(std::min<int64_t>(kMaxStages, (limit - fixed) / plan.stage_bytes));
  plan.bytes = fixed + plan.stages * plan.stage_bytes;
  return plan;
}

/// A block's part of a sequence that was split: unnormalised output, maxima and sums.
struct Split {
  int32_t row = -1;  ///< -1: none
  int32_t head = 0;
  int32_t last_block = 0;  ///< that has a part of the sequence
  int32_t pad = 0;
};

/// Workspace: two Splits per block (the part that begins before the block's share, the part that
/// ends behind it), then their floats [group][head_dim], max [group], sum [group].
__host__ __device__ inline int64_t split_floats(int64_t group, int64_t head_dim) {
  return (group * (head_dim + 2) + 3) / 4 * 4;
}
__device__ __forceinline__ Split* split_at(const AttentionParams& p, int block, int which) {
  return static_cast<Split*>(p.workspace) + 2 * block + which;
}
__device__ __forceinline__ float* split_data(const AttentionParams& p, int blocks, int block,
                                             int which) {
  auto* floats = reinterpret_cast<float*>(static_cast<Split*>(p.workspace) + 2 * blocks);
  return floats + (2 * block + which) * split_floats(p.group, p.head_dim);
}

/// Keys [begin(), end) that a row attends to, and the pages that hold them. Kept as one number,
/// since registers are scarce.
struct Span {
  int end = 0;
  __device__ int begin(const AttentionParams& p) const {
    return p.window > 0 ? max(0, end - p.window) : 0;
  }
  __device__ int first_page(const AttentionParams& p) const { return begin(p) / kAttentionPage; }
  __device__ int pages(const AttentionParams& p) const {
    return (end + kAttentionPage - 1) / kAttentionPage - first_page(p);
  }
};
__device__ __forceinline__ Span span_of(int position) {
  return {position + 1};
}

/// A run of tiles of one (row, head): as much of it as the block's share holds.
struct Unit {
  int row, head;
  int tile, count;  ///< within the row's pages
  Span span;
  __device__ bool begins() const { return tile == 0; }
  __device__ bool ends(const AttentionParams& p) const { return tile + count == span.pages(p); }
};

/// Walks a block's share unit by unit. Every warp walks for itself.
class Walk {
 public:
  __device__ Walk(const AttentionParams& p, const Control& c, int rows, int tiles)
      : p_(p), rows_(rows), left_(tiles) {
    if (left_ == 0) return;
    unit_.row = c.row;
    unit_.head = c.head;
    unit_.tile = c.tile;
    unit_.span = span_of(__ldg(p_.positions + unit_.row));
    prefetch();
    take();
  }
  __device__ bool done() const { return left_ == 0; }
  __device__ const Unit& unit() const { return unit_; }
  __device__ void next() {
    left_ -= unit_.count;
    unit_.tile = 0;
    if (++unit_.head == p_.num_kv_heads) {
      unit_.head = 0;
      ++unit_.row;
      unit_.span = span_of(next_position_);
      prefetch();
    }
    take();
  }

 private:
  /// The next row's position is read a row ahead, so that its latency is hidden.
  __device__ void prefetch() {
    next_position_ = unit_.row + 1 < rows_ ? __ldg(p_.positions + unit_.row + 1) : 0;
  }
  __device__ void take() { unit_.count = min(left_, unit_.span.pages(p_) - unit_.tile); }

  const AttentionParams& p_;
  int rows_;
  int left_;
  int next_position_ = 0;
  Unit unit_{};
};

/// Tiles of all rows before this block's share, and where the share begins: c.row, head, tile.
/// Returns the share's tiles. All threads of the block call it.
__device__ inline int find_share(const AttentionParams& p, Control& c, int rows) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int per = (rows + threads - 1) / threads;
  const int begin = min(rows, thread * per), end = min(rows, begin + per);
  int sum = 0;
  for (int r = begin; r < end; ++r) {
    sum += span_of(__ldg(p.positions + r)).pages(p);
  }
  int scan = sum;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, scan, step);
    if (thread % 32 >= step) scan += other;
  }
  if (thread % 32 == 31) c.warp_sums[thread / 32] = scan;
  __syncthreads();
  int before = scan - sum, total = 0;
  for (int w = 0; w < threads / 32; ++w) {
    if (w < thread / 32) before += c.warp_sums[w];
    total += c.warp_sums[w];
  }
  const int64_t tiles = int64_t{total} * p.num_kv_heads;
  // With fewer tiles than blocks the first blocks take one each: a part without a tile between two
  // others would be a hole for the merge.
  const int64_t block = blockIdx.x, sharing = min(int64_t{gridDim.x}, tiles);
  const int64_t first = block < sharing ? tiles * block / sharing : tiles;
  const int64_t last = block < sharing ? tiles * (block + 1) / sharing : tiles;
  int64_t at = int64_t{before} * p.num_kv_heads;
  if (first < last && at <= first && first < at + int64_t{sum} * p.num_kv_heads) {
    int r = begin, count = 0;
    for (;; ++r) {
      count = span_of(__ldg(p.positions + r)).pages(p);
      if (first < at + int64_t{count} * p.num_kv_heads) break;
      at += int64_t{count} * p.num_kv_heads;
    }
    c.row = r;
    c.head = static_cast<int>(first - at) / count;
    c.tile = static_cast<int>(first - at) % count;
  }
  if (thread == 0) {
    c.total = tiles;
    c.end = last;
    c.sharing = static_cast<int>(sharing);
  }
  __syncthreads();
  return static_cast<int>(last - first);
}

/// The last block that has a part of the unit, of which this block's share holds the beginning.
__device__ inline int last_block_of(const AttentionParams& p, const Unit& u, const Control& c) {
  const int64_t end = c.end + u.span.pages(p) - (u.tile + u.count);
  return static_cast<int>((end * c.sharing - 1) / c.total);
}

struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages, int by) {
    stage += by;
    if (stage < stages) return;
    parity ^= static_cast<uint32_t>(stage / stages) & 1;
    stage %= stages;
  }
};

}  // namespace nanoflow::cuda::decode
