// Decode attention: one query row against its sequence's pages. All (row, KV head, page) tiles of
// the launch form one line that the blocks share evenly, so uneven lengths cost nothing; a producer
// warp streams a block's tiles through a ring of shared memory, groups of four warps take the
// sequences in turn, and each warp keeps its own running softmax over 16 keys of every tile.
// Sequences cut by a block's border are merged by a second, tiny kernel.
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
  int32_t last_block = 0;  ///< that has a part of the sequence
  int32_t pad = 0;
};

/// Workspace: two Splits per block (the part that begins before the block's share, the part that
/// ends behind it), then their floats [group][head_dim], max [group], sum [group].
__host__ __device__ int64_t split_floats(int64_t group, int64_t head_dim) {
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
  if (thread == 0) {
    c.total = tiles;
    c.end = last;
    c.sharing = static_cast<int>(sharing);
  }
  __syncthreads();
  return static_cast<int>(last - first);
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

/// The producer warp: every tile of the share, in order, K, V and with a unit's first tile its
/// query rows.
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
      const bool with_q = i == 0;
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

/// One warp's running softmax over its keys, scores in base 2. All is transposed, so that a tile's
/// keys and the output's columns fill the 16 rows of a product and the kHeads * 8 query heads its
/// columns: accumulators are (row lane / 4, + 8) x (heads 2 (lane % 4), + 1).
template <typename T, int D, int kHeads>
struct Running {
  float out[D / 16][kHeads][4];
  float max[kHeads][2];
  float sum[kHeads][2];  ///< of this thread's keys

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < kHeads; ++n) {
#pragma unroll
      for (int i = 0; i < D / 16; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) out[i][n][j] = 0;
      max[n][0] = max[n][1] = -INFINITY;
      sum[n][0] = sum[n][1] = 0;
    }
  }

  /// Adds 16 keys, rows key0.. of the tile at k_at, v_at; only [lo, hi) of them count unless
  /// kWhole.
  template <bool kWhole>
  __device__ void add(const uint32_t (&q)[D / 16][kHeads][2], uint32_t k_at, uint32_t v_at,
                      int key0, int lo, int hi, float scale_log2) {
    constexpr int kChains = kHeads == 1 ? 4 : 2;  // independent sums hide the products' latency
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float chains[kChains][kHeads][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t a[4];
      load_matrices(a, k_at + tile_offset<D>(key0 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < kHeads; ++n) mma<T>(chains[k % kChains][n], a, q[k][n][0], q[k][n][1]);
    }
    float s[kHeads][4];
#pragma unroll
    for (int n = 0; n < kHeads; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = key0 + lane / 4 + j / 2 * 8;
        float value = chains[0][n][j];
#pragma unroll
        for (int c = 1; c < kChains; ++c) value += chains[c][n][j];
        s[n][j] = kWhole || (lo <= key && key < hi) ? value * scale_log2 : -INFINITY;
      }
    rescale(s);
    uint32_t weights[kHeads][2];
#pragma unroll
    for (int n = 0; n < kHeads; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = exp2_fast(s[n][j] - max[n][j % 2]);
        sum[n][j % 2] += s[n][j];
      }
      weights[n][0] = transpose(pack<T>(s[n][0], s[n][1]));
      weights[n][1] = transpose(pack<T>(s[n][2], s[n][3]));
    }
    uint32_t keep[2];
    if (!kWhole)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = key0 + half * 8 + lane % 4 * 2;
        keep[half] = (lo <= key && key < hi ? 0xffffu : 0) |
                     (lo <= key + 1 && key + 1 < hi ? 0xffff0000u : 0);
      }
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      uint32_t a[4];
      load_matrices_transposed(
          a, v_at + tile_offset<D>(key0 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
      if (!kWhole)  // slots behind the sequence may hold NaN, and 0 * NaN is not 0
#pragma unroll
        for (int j = 0; j < 4; ++j) a[j] &= keep[j / 2];
#pragma unroll
      for (int n = 0; n < kHeads; ++n) mma<T>(out[i][n], a, weights[n][0], weights[n][1]);
    }
  }

  /// Raises the maxima to those of the new scores.
  __device__ void rescale(const float (&s)[kHeads][4]) {
    float top[kHeads][2];
    bool raised = false;
#pragma unroll
    for (int n = 0; n < kHeads; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        top[n][h] = fmaxf(s[n][h], s[n][h + 2]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2)
          top[n][h] = fmaxf(top[n][h], __shfl_xor_sync(~0u, top[n][h], step));
        raised = raised || top[n][h] > max[n][h];
      }
    if (!__any_sync(~0u, raised)) return;
#pragma unroll
    for (int n = 0; n < kHeads; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float raised_max = fmaxf(max[n][h], top[n][h]);
        const float factor = exp2_fast(max[n][h] - raised_max);
        max[n][h] = raised_max;
        sum[n][h] *= factor;
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
          out[i][n][h] *= factor;
          out[i][n][h + 2] *= factor;
        }
      }
  }
};

/// Query heads of a unit as fragments; columns behind the group repeat its last head.
template <int D, int kHeads>
__device__ void load_queries(uint32_t (&q)[D / 16][kHeads][2], uint32_t q_at, int group,
                             int head_dim) {
  const int lane = static_cast<int>(threadIdx.x) % 32, chunks = head_dim / 8;
#pragma unroll
  for (int n = 0; n < kHeads; ++n) {
    const uint32_t row_at =
        q_at + static_cast<uint32_t>(min(n * 8 + lane % 8, group - 1) * head_dim * 2);
#pragma unroll
    for (int k = 0; k < D / 16; k += 2) {
      uint32_t r[4];
      load_matrices(r, row_at + static_cast<uint32_t>(min(2 * k + lane / 8, chunks - 1) * 16));
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (k + j / 2 < D / 16) q[k + j / 2][n][j % 2] = 2 * k + j < chunks ? r[j] : 0;
    }
  }
}

/// The last block that has a part of the unit, of which this block's share holds the beginning.
__device__ int last_block_of(const AttentionParams& p, const Unit& u, const Control& c) {
  const int64_t end = c.end + u.span.pages(p) - (u.tile + u.count);
  return static_cast<int>((end * c.sharing - 1) / c.total);
}

/// Adds the group's four warps' results and writes the unit's output, or its part of a split one.
template <typename T, int D, int kHeads>
__device__ void finish(const AttentionParams& p, const Unit& u, Running<T, D, kHeads>& run,
                       float* buffer, int merge_rows, Control& c) {
  constexpr int kThreads = kGroupWarps * 32, kStride = merge_stride(D);
  const int thread = static_cast<int>(threadIdx.x) % kThreads, lane = thread % 32;
  const int group = static_cast<int>(threadIdx.x) / kThreads, warp0 = group * kGroupWarps;
  const int warp = warp0 + thread / 32;
  const bool whole = u.begins() && u.ends(p);
  const int which = u.begins() ? 1 : 0;
  float* split = split_data(p, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x), which);
#pragma unroll
  for (int n = 0; n < kHeads; ++n) {
    const int row0 = n * 8, rows = min(p.group - row0, 8);
    if (rows <= 0) break;
    named_barrier(1 + group, kThreads);  // the buffer's last readers are done
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = lane % 4 * 2 + h;
      float sum = run.sum[n][h];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (head >= rows) continue;
      float* to = buffer + (warp * merge_rows + head) * kStride + lane / 4;
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        to[i * 16] = run.out[i][n][h];
        to[i * 16 + 8] = run.out[i][n][h + 2];
      }
      if (lane < 4) {
        c.max[warp][head] = run.max[n][h];
        c.sum[warp][head] = sum;
      }
    }
    named_barrier(1 + group, kThreads);
    for (int i = thread; i < rows * (D / 4); i += kThreads) {
      const int row = i / (D / 4), col = i % (D / 4) * 4;
      if (col >= p.head_dim) continue;
      float top = -INFINITY, sum = 0;
#pragma unroll
      for (int w = 0; w < kGroupWarps; ++w) top = fmaxf(top, c.max[warp0 + w][row]);
      float4 total = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kGroupWarps; ++w) {
        const float factor = exp2_fast(c.max[warp0 + w][row] - top);
        const float4 part = *reinterpret_cast<const float4*>(
            buffer + ((warp0 + w) * merge_rows + row) * kStride + col);
        sum += c.sum[warp0 + w][row] * factor;
        total.x += part.x * factor;
        total.y += part.y * factor;
        total.z += part.z * factor;
        total.w += part.w * factor;
      }
      if (whole) {
        const float scale = 1 / sum;
        store4<T>(static_cast<T*>(p.out) + u.row * p.out_stride +
                      static_cast<int64_t>(u.head * p.group + row0 + row) * p.head_dim + col,
                  {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
      } else {
        *reinterpret_cast<float4*>(split + (row0 + row) * p.head_dim + col) = total;
        if (col == 0) {
          split[p.group * p.head_dim + row0 + row] = top;
          split[p.group * (p.head_dim + 1) + row0 + row] = sum;
        }
      }
    }
  }
  if (!whole && thread == 0)
    *split_at(p, static_cast<int>(blockIdx.x), which) = {
        u.row, u.head, u.begins() ? last_block_of(p, u, c) : 0, 0};
}

/// A consumer warp: every tile of its group's units. The groups take units in turn. A group looks
/// at the ring only after the one before it has seen its last tile: a barrier tells a phase from
/// the next one but not from the one after that.
template <typename T, int D, int kHeads>
__device__ void consume(const AttentionParams& p, Walk walk, uint32_t stages_at, float* buffer,
                        const Plan& plan, Control& c) {
  constexpr int kGroups = tile_groups(D), kTileBytes = kAttentionPage * D * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / kGroupWarps;
  const int key0 = warp % kGroupWarps * 16;
  Ring ring;
  Running<T, D, kHeads> run;
  uint32_t q[D / 16][kHeads][2];
  int turn = 0;  // group of the unit
  uint32_t turn_parity = 0;
  for (bool first_unit = true; !walk.done(); walk.next(), first_unit = false) {
    const Unit& u = walk.unit();
    if (turn != group) {
      ring.advance(plan.stages, u.count);
      turn = turn + 1 == kGroups ? 0 : turn + 1;
      continue;
    }
    turn = turn + 1 == kGroups ? 0 : turn + 1;
    if (kGroups > 1 && !first_unit) {
      barrier_wait(shared_address(&c.turn[group]), turn_parity);
      turn_parity ^= 1;
    }
    run.clear();
    int lo = u.span.begin(p) - (u.span.first_page(p) + u.tile) * kAttentionPage;
    int hi = u.span.end - (u.span.first_page(p) + u.tile) * kAttentionPage;
    for (int i = 0; i < u.count; ++i, lo -= kAttentionPage, hi -= kAttentionPage) {
      barrier_wait(shared_address(&c.full[ring.stage]), ring.parity);
      if (kGroups > 1 && i + 1 == u.count && lane == 0)
        barrier_arrive(shared_address(&c.turn[turn]));
      const uint32_t k_at = stages_at + static_cast<uint32_t>(ring.stage * plan.stage_bytes);
      if (i == 0) load_queries<D, kHeads>(q, k_at + 2 * kTileBytes, p.group, p.head_dim);
      if (lo <= key0 && key0 + 16 <= hi)
        run.template add<true>(q, k_at, k_at + kTileBytes, key0, lo, hi, p.scale_log2);
      else if (key0 < hi && key0 + 16 > lo)
        run.template add<false>(q, k_at, k_at + kTileBytes, key0, lo, hi, p.scale_log2);
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&c.empty[ring.stage]));
      ring.advance(plan.stages, 1);
    }
    finish<T, D, kHeads>(p, u, run, buffer, plan.merge_rows, c);
  }
}

__device__ int live_decodes(const AttentionParams& p) {
  const int live = min(*p.live_rows, *p.decode_rows) - p.row_begin;
  return max(0, min(live, p.num_rows));
}

template <typename T, int D, int kHeads>
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
  if (thread < tile_groups(D)) barrier_init(shared_address(&c.turn[thread]), kGroupWarps);
#if __CUDA_ARCH__ >= 900
  if (thread == 32 && p.bulk) {
    prefetch_map(&maps.k);
    prefetch_map(&maps.v);
  }
#endif
  if (thread < 2) split_at(p, static_cast<int>(blockIdx.x), thread)->row = -1;
  const int rows = live_decodes(p);
  const int tiles = find_share(p, c, rows);
  if (tiles == 0) return;
  if (thread / 32 == consumer_warps(D))
    produce<T, D>(p, maps, Walk(p, c, rows, tiles), aligned, plan, c);
  else
    consume<T, D, kHeads>(p, Walk(p, c, rows, tiles), aligned, buffer, plan, c);
  launch_dependents();
}

/// Block b adds the parts of the sequence that begins in decode block b and ends behind it.
template <typename T>
__global__ void __launch_bounds__(128) merge_kernel(const AttentionParams p) {
  extern __shared__ float maxima[];  // [parts][group]
  wait_dependencies();
  const int first = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  const Split split = *split_at(p, first, 1);
  if (split.row < 0) return;
  const int parts = split.last_block - first + 1;
  const auto part = [&](int i) { return split_data(p, blocks, first + i, i == 0 ? 1 : 0); };
  const int max_at = p.group * p.head_dim, sum_at = max_at + p.group;
  for (int i = thread; i < parts * p.group; i += 128)
    maxima[i] = part(i / p.group)[max_at + i % p.group];
  __syncthreads();
  for (int i = thread * 4; i < max_at; i += 512) {
    const int row = i / p.head_dim;
    float top = -INFINITY, sum = 0;
    for (int b = 0; b < parts; ++b) top = fmaxf(top, maxima[b * p.group + row]);
    float4 total = {0, 0, 0, 0};
#pragma unroll 8
    for (int b = 0; b < parts; ++b) {
      const float* from = part(b);
      const float factor = exp2_fast(maxima[b * p.group + row] - top);
      const float4 x = *reinterpret_cast<const float4*>(from + i);
      sum += from[sum_at + row] * factor;
      total.x += x.x * factor;
      total.y += x.y * factor;
      total.z += x.z * factor;
      total.w += x.w * factor;
    }
    const float scale = 1 / sum;
    store4<T>(static_cast<T*>(p.out) + split.row * p.out_stride +
                  static_cast<int64_t>(split.head) * max_at + i,
              {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
  }
}

template <typename T, int D, int kHeads>
void launch(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
            cudaStream_t stream) {
  const Plan plan = plan_shared(p.group, p.head_dim, D, device.shared_bytes_per_block);
  cuda_check(cudaFuncSetAttribute(decode_kernel<T, D, kHeads>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, plan.bytes),
             "shared memory for decode attention");
  const auto blocks = static_cast<unsigned>(p.sms);
  decode_kernel<T, D, kHeads>
      <<<blocks, block_threads(D), static_cast<size_t>(plan.bytes), stream>>>(p, maps, plan);
  check_launch("decode attention");
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = 128;
  config.dynamicSmemBytes = static_cast<size_t>(p.sms) * static_cast<size_t>(p.group) * 4;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = device.compute_major >= 9 ? 1 : 0;
  cuda_check(cudaLaunchKernelEx(&config, merge_kernel<T>, p), "launching the merge of attention");
}

template <typename T, int kHeads>
void launch_heads(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
                  cudaStream_t stream) {
  switch (compiled_head_dim(p.head_dim)) {
    case 64: return launch<T, 64, kHeads>(p, maps, device, stream);
    case 80: return launch<T, 80, kHeads>(p, maps, device, stream);
    case 96: return launch<T, 96, kHeads>(p, maps, device, stream);
    case 128: return launch<T, 128, kHeads>(p, maps, device, stream);
    default: return launch<T, 256, kHeads>(p, maps, device, stream);
  }
}

template <typename T>
void launch_typed(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
                  cudaStream_t stream) {
  if (p.group <= 8)
    launch_heads<T, 1>(p, maps, device, stream);
  else
    launch_heads<T, 2>(p, maps, device, stream);
}

}  // namespace

void launch_decode(const AttentionParams& params, const KvMaps& maps, const DeviceLimits& device,
                   cudaStream_t stream) {
  if (params.half)
    launch_typed<__half>(params, maps, device, stream);
  else
    launch_typed<__nv_bfloat16>(params, maps, device, stream);
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
