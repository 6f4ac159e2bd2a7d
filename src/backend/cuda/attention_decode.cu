// Decode attention: one query row against its sequence's pages. All (row, KV head, page) tiles of
// the launch form one line that the blocks share evenly, so uneven lengths cost nothing; a producer
// warp streams a block's tiles through a ring of shared memory, groups of four warps take them in
// turn, and each warp keeps its own running softmax over 16 keys of every tile. Sequences cut by a
// block's border are merged by a second, tiny kernel.
#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

using namespace ptx;

constexpr int kGroupWarps = kAttentionPage / 16;

/// Four-warp groups of a block: enough that their latencies hide behind a few SMs' share of HBM.
constexpr int tile_groups(int head_dim) {
  return head_dim <= 64 ? 3 : head_dim <= 128 ? 2 : 1;
}
constexpr int consumer_warps(int head_dim) {
  return tile_groups(head_dim) * kGroupWarps;
}
constexpr int block_threads(int head_dim) {
  return (consumer_warps(head_dim) + 1) * 32;
}

/// Columns between rows of the merge buffer: 8 more keep a warp's float2 stores free of conflicts.
constexpr int merge_stride(int head_dim) {
  return head_dim + 8;
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
  int warp_sums[32];
  int row, head, tile;
  float max[32][kMaxGroup];
  float sum[32][kMaxGroup];
};

Plan plan_shared(int group, int head_dim, int compiled, int64_t limit) {
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
  int32_t ends = 0;  ///< the sequence's last tile is in this part
  int32_t pad = 0;
};

/// Workspace: two Splits per block (the part that begins before the block's share, the part that
/// ends behind it), then their floats [group][head_dim], max [group], sum [group].
__host__ __device__ int64_t split_floats(int64_t group, int64_t head_dim) {
  return group * (head_dim + 2);
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
__device__ int find_share(const AttentionParams& p, Control& c, int rows) {
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
  __syncthreads();
  return static_cast<int>(last - first);
}

struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages, int by) {
    stage += by;
    while (stage >= stages) {
      stage -= stages;
      parity ^= 1;
    }
  }
};

/// The producer warp: every tile of the share, in order, K, V and for a unit's first tiles (one per
/// group) its query rows.
template <typename T, int D>
__device__ void produce(const AttentionParams& p, const KvMaps& maps, Walk walk, uint32_t stages_at,
                        const Plan& plan, Control& c) {
  constexpr int kTileBytes = kAttentionPage * D * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int q_bytes = p.group * p.head_dim * 2;
  Ring ring;
  int row = -1, base = 0;
  for (; !walk.done(); walk.next()) {
    const Unit& u = walk.unit();
    if (u.row != row) {
      row = u.row;
      base = __ldg(p.page_indptr + __ldg(p.row_seq + row)) + u.span.first_page(p);
    }
    const T* q = static_cast<const T*>(p.q) + row * p.q_stride +
                 static_cast<int64_t>(u.head) * p.group * p.head_dim;
    int pages = 0;
    for (int i = 0; i < u.count; ++i) {
      if (i % 32 == 0 && i + lane < u.count)
        pages = __ldg(p.page_indices + base + u.tile + i + lane);
      const int page = __shfl_sync(~0u, pages, i % 32);
      const uint32_t full = shared_address(&c.full[ring.stage]);
      const uint32_t k_at = stages_at + static_cast<uint32_t>(ring.stage * plan.stage_bytes);
      const bool with_q = i < tile_groups(D);
      barrier_wait(shared_address(&c.empty[ring.stage]), ring.parity ^ 1);
#if __CUDA_ARCH__ >= 900
      if (p.bulk) {
        if (lane == 0) {
          barrier_expect(full, static_cast<uint32_t>(2 * kTileBytes + (with_q ? q_bytes : 0)));
          bulk_box(k_at, &maps.k, full, 0, 0, 0, u.head, page);
          if (with_q) bulk_copy(k_at + 2 * kTileBytes, q, static_cast<uint32_t>(q_bytes), full);
          bulk_box(k_at + kTileBytes, &maps.v, full, 0, 0, 0, u.head, page);
        }
        ring.advance(plan.stages, 1);
        continue;
      }
#endif
      const int valid = u.span.end - (u.span.first_page(p) + u.tile + i) * kAttentionPage;
      copy_tile<T, D>(k_at, p.k, p, page, u.head, valid, lane, 32);
      copy_tile<T, D>(k_at + kTileBytes, p.v, p, page, u.head, valid, lane, 32);
      if (with_q)
        for (int at = lane * 16; at < q_bytes; at += 512)
          copy16(k_at + 2 * kTileBytes + at, reinterpret_cast<const char*>(q) + at, true);
      copy_arrive(full);
      ring.advance(plan.stages, 1);
    }
  }
  copy_wait<0>();
}

/// One warp's running softmax over its keys: scores in base 2, rows of the tile are query heads.
template <typename T, int D>
struct Running {
  float out[D / 8][4];
  float max[2];
  float sum[2];  ///< of this thread's columns

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i][j] = 0;
    max[0] = max[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  /// Adds 16 keys, rows key0.. of the tile at k_at, v_at, of which [lo, hi) count.
  __device__ void add(const uint32_t (&q)[D / 16][4], uint32_t k_at, uint32_t v_at, int key0,
                      int lo, int hi, float scale_log2) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float s[2][2][4] = {};  // [odd k step][key / 8]: two chains halve the latency
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t b[4];
      load_matrices(b,
                    k_at + tile_offset<D>(key0 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      mma<T>(s[k % 2][0], q[k], b[0], b[1]);
      mma<T>(s[k % 2][1], q[k], b[2], b[3]);
    }
    const bool whole = lo <= key0 && key0 + 16 <= hi;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = key0 + n * 8 + lane % 4 * 2 + j % 2;
        const float value = (s[0][n][j] + s[1][n][j]) * scale_log2;
        s[0][n][j] = whole || (lo <= key && key < hi) ? value : -INFINITY;
      }
    uint32_t a[4];
    rescale(s[0]);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[0][n][j] = exp2_fast(s[0][n][j] - max[j / 2]);
        sum[j / 2] += s[0][n][j];
      }
      a[2 * n] = pack<T>(s[0][n][0], s[0][n][1]);
      a[2 * n + 1] = pack<T>(s[0][n][2], s[0][n][3]);
    }
    // Slots behind the sequence may hold NaN, and 0 * NaN is not 0.
    uint32_t keep[2] = {~0u, ~0u};
    if (!whole)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int key = key0 + n * 8 + lane % 4 * 2;
        keep[n] = (lo <= key && key < hi ? 0xffffu : 0) |
                  (lo <= key + 1 && key + 1 < hi ? 0xffff0000u : 0);
      }
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      uint32_t b[4];
      load_matrices_transposed(b, v_at + tile_offset<D>(key0 + lane % 16, 2 * d + lane / 16));
      mma<T>(out[2 * d], a, b[0] & keep[0], b[1] & keep[1]);
      mma<T>(out[2 * d + 1], a, b[2] & keep[0], b[3] & keep[1]);
    }
  }

  /// Raises the maxima to those of the new scores.
  __device__ void rescale(const float (&s)[2][4]) {
    float top[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(fmaxf(s[0][2 * r], s[0][2 * r + 1]), fmaxf(s[1][2 * r], s[1][2 * r + 1]));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
      top[r] = fmaxf(top[r], max[r]);
    }
    if (!__any_sync(~0u, top[0] != max[0] || top[1] != max[1])) return;
    const float factor[2] = {exp2_fast(max[0] - top[0]), exp2_fast(max[1] - top[1])};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] *= factor[r];
      max[r] = top[r];
    }
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i][j] *= factor[j / 2];
  }
};

/// Query heads of a unit as fragments; rows behind the group repeat its last one.
template <int D>
__device__ void load_queries(uint32_t (&q)[D / 16][4], uint32_t q_at, int group, int head_dim) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = min(lane % 16, group - 1);
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    const int chunk = 2 * k + lane / 16, last = head_dim / 8 - 1;
    load_matrices(q[k], q_at + static_cast<uint32_t>(row * head_dim * 2 + min(chunk, last) * 16));
    if (2 * k > last) q[k][0] = q[k][1] = 0;
    if (2 * k + 1 > last) q[k][2] = q[k][3] = 0;
  }
}

/// Adds the warps' results and writes the unit's output, or its part of a split one. All consumer
/// warps call it.
template <typename T, int D>
__device__ void finish(const AttentionParams& p, const Unit& u, Running<T, D>& run, float* buffer,
                       int merge_rows, Control& c) {
  constexpr int kWarps = consumer_warps(D), kThreads = kWarps * 32, kStride = merge_stride(D);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const bool whole = u.begins() && u.ends(p);
  const int which = u.begins() ? 1 : 0;
  float* split = split_data(p, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x), which);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    run.sum[r] += __shfl_xor_sync(~0u, run.sum[r], 1);
    run.sum[r] += __shfl_xor_sync(~0u, run.sum[r], 2);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row0 = r * 8, rows = min(p.group - row0, merge_rows);
    if (rows <= 0) break;
    named_barrier(1, kThreads);  // the buffer's last readers are done
    const int g = lane / 4;
    if (g < rows) {
      float* to = buffer + (warp * merge_rows + g) * kStride + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < D / 8; ++i)
        *reinterpret_cast<float2*>(to + i * 8) = {run.out[i][2 * r], run.out[i][2 * r + 1]};
      if (lane % 4 == 0) {
        c.max[warp][g] = run.max[r];
        c.sum[warp][g] = run.sum[r];
      }
    }
    named_barrier(1, kThreads);
    for (int i = thread; i < rows * (D / 4); i += kThreads) {
      const int row = i / (D / 4), col = i % (D / 4) * 4;
      float top = -INFINITY, sum = 0;
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, c.max[w][row]);
      float4 total = {0, 0, 0, 0};
      for (int w = 0; w < kWarps; ++w) {
        const float factor = exp2_fast(c.max[w][row] - top);
        const float4 part =
            *reinterpret_cast<const float4*>(buffer + (w * merge_rows + row) * kStride + col);
        sum += c.sum[w][row] * factor;
        total.x += part.x * factor;
        total.y += part.y * factor;
        total.z += part.z * factor;
        total.w += part.w * factor;
      }
      if (col >= p.head_dim) continue;
      if (whole) {
        const float scale = 1 / sum;
        store4<T>(static_cast<T*>(p.out) + u.row * p.out_stride +
                      static_cast<int64_t>(u.head * p.group + row0 + row) * p.head_dim + col,
                  {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
      } else {
        float* to = split + (row0 + row) * p.head_dim + col;
        to[0] = total.x;
        to[1] = total.y;
        to[2] = total.z;
        to[3] = total.w;
        if (col == 0) {
          split[p.group * p.head_dim + row0 + row] = top;
          split[p.group * (p.head_dim + 1) + row0 + row] = sum;
        }
      }
    }
  }
  if (!whole && thread == 0)
    *split_at(p, static_cast<int>(blockIdx.x), which) = {u.row, u.head, u.ends(p) ? 1 : 0, 0};
}

/// A consumer warp: its group's tiles of every unit.
template <typename T, int D>
__device__ void consume(const AttentionParams& p, Walk walk, uint32_t stages_at, float* buffer,
                        const Plan& plan, Control& c) {
  constexpr int kGroups = tile_groups(D), kTileBytes = kAttentionPage * D * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / kGroupWarps;
  const int key0 = warp % kGroupWarps * 16;
  Ring ring;
  ring.advance(plan.stages, group);
  Running<T, D> run;
  uint32_t q[D / 16][4];
  int turn = group;  // tiles until this group's next one
  for (; !walk.done(); walk.next()) {
    const Unit& u = walk.unit();
    run.clear();
    bool first = true;
    for (; turn < u.count; turn += kGroups) {
      barrier_wait(shared_address(&c.full[ring.stage]), ring.parity);
      const uint32_t k_at = stages_at + static_cast<uint32_t>(ring.stage * plan.stage_bytes);
      if (first) load_queries<D>(q, k_at + 2 * kTileBytes, p.group, p.head_dim);
      first = false;
      const int tile_key = (u.span.first_page(p) + u.tile + turn) * kAttentionPage;
      const int lo = u.span.begin(p) - tile_key, hi = u.span.end - tile_key;
      if (key0 < hi && key0 + 16 > lo)
        run.add(q, k_at, k_at + kTileBytes, key0, lo, hi, p.scale_log2);
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&c.empty[ring.stage]));
      ring.advance(plan.stages, kGroups);
    }
    turn -= u.count;
    finish<T, D>(p, u, run, buffer, plan.merge_rows, c);
  }
}

__device__ int live_decodes(const AttentionParams& p) {
  const int live = min(*p.live_rows, *p.decode_rows) - p.row_begin;
  return max(0, min(live, p.num_rows));
}

template <typename T, int D>
__global__ void __launch_bounds__(block_threads(D), 1)
    decode_kernel(const AttentionParams p, const __grid_constant__ KvMaps maps, const Plan plan) {
  extern __shared__ char shared[];
  const uint32_t aligned = (shared_address(shared) + 1023) / 1024 * 1024;
  char* base = shared + (aligned - shared_address(shared));
  auto* buffer = reinterpret_cast<float*>(base + plan.stages * plan.stage_bytes);
  auto& c =
      *reinterpret_cast<Control*>(buffer + consumer_warps(D) * plan.merge_rows * merge_stride(D));
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < plan.stages) {
    barrier_init(shared_address(&c.full[thread]), p.bulk ? 1 : 32);
    barrier_init(shared_address(&c.empty[thread]), kGroupWarps);
    fence_async();
  }
  if (thread < 2) split_at(p, static_cast<int>(blockIdx.x), thread)->row = -1;
  const int rows = live_decodes(p);
  const int tiles = find_share(p, c, rows);
  if (tiles == 0) return;
  if (thread / 32 == consumer_warps(D))
    produce<T, D>(p, maps, Walk(p, c, rows, tiles), aligned, plan, c);
  else
    consume<T, D>(p, Walk(p, c, rows, tiles), aligned, buffer, plan, c);
  launch_dependents();
}

/// Block b adds the parts of the sequence that begins in decode block b and ends behind it.
template <typename T>
__global__ void __launch_bounds__(128) merge_kernel(const AttentionParams p) {
  wait_dependencies();
  const int first = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const Split split = *split_at(p, first, 1);
  if (split.row < 0) return;
  int last = first + 1;
  while (last + 1 < blocks && split_at(p, last, 0)->ends == 0) ++last;
  const auto part = [&](int block) { return split_data(p, blocks, block, block == first ? 1 : 0); };
  const int max_at = p.group * p.head_dim, sum_at = max_at + p.group;
  for (int i = static_cast<int>(threadIdx.x) * 4; i < max_at; i += 512) {
    const int row = i / p.head_dim;
    float top = -INFINITY, sum = 0;
    for (int b = first; b <= last; ++b) top = fmaxf(top, part(b)[max_at + row]);
    float4 total = {0, 0, 0, 0};
    for (int b = first; b <= last; ++b) {
      const float* from = part(b);
      const float factor = exp2_fast(from[max_at + row] - top);
      sum += from[sum_at + row] * factor;
      total.x += from[i] * factor;
      total.y += from[i + 1] * factor;
      total.z += from[i + 2] * factor;
      total.w += from[i + 3] * factor;
    }
    const float scale = 1 / sum;
    store4<T>(static_cast<T*>(p.out) + split.row * p.out_stride +
                  static_cast<int64_t>(split.head) * max_at + i,
              {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
  }
}

template <typename T, int D>
void launch(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
            cudaStream_t stream) {
  const Plan plan = plan_shared(p.group, p.head_dim, D, device.shared_bytes_per_block);
  cuda_check(cudaFuncSetAttribute(decode_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  plan.bytes),
             "shared memory for decode attention");
  const auto blocks = static_cast<unsigned>(p.sms);
  decode_kernel<T, D>
      <<<blocks, block_threads(D), static_cast<size_t>(plan.bytes), stream>>>(p, maps, plan);
  check_launch("decode attention");
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = 128;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = device.compute_major >= 9 ? 1 : 0;
  cuda_check(cudaLaunchKernelEx(&config, merge_kernel<T>, p), "launching the merge of attention");
}

template <typename T>
void launch(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
            cudaStream_t stream) {
  switch (compiled_head_dim(p.head_dim)) {
    case 64: return launch<T, 64>(p, maps, device, stream);
    case 80: return launch<T, 80>(p, maps, device, stream);
    case 96: return launch<T, 96>(p, maps, device, stream);
    case 128: return launch<T, 128>(p, maps, device, stream);
    default: return launch<T, 256>(p, maps, device, stream);
  }
}

}  // namespace

void launch_decode(const AttentionParams& params, const KvMaps& maps, const DeviceLimits& device,
                   cudaStream_t stream) {
  if (params.half)
    launch<__half>(params, maps, device, stream);
  else
    launch<__nv_bfloat16>(params, maps, device, stream);
}

int64_t decode_workspace(int64_t group, int64_t head_dim, int sms) {
  return 2 * int64_t{sms} *
         (static_cast<int64_t>(sizeof(Split)) + split_floats(group, head_dim) * 4);
}

bool decode_fits(int64_t group, int64_t head_dim, const DeviceLimits& device) {
  const int compiled = compiled_head_dim(head_dim);
  return plan_shared(static_cast<int>(group), static_cast<int>(head_dim), compiled,
                     device.shared_bytes_per_block)
             .stages >= 1;
}

}  // namespace nanoflow::cuda
