// Prefill attention for Hopper, head_dim 64 and 128: a producer warp brings pages by bulk copies,
// two warpgroups compute 64 packed rows (tokens times the query heads of one KV head) each against
// 128 keys at a time. The next tile's scores are under way while this tile's weights are computed
// (Shah et al. 2024, algorithm 2).
#include <cuda_runtime.h>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/attention_wgmma.cuh"
#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

constexpr int kKeys = 2 * kAttentionPage;
constexpr int kConsumers = 2;
constexpr int kThreads = (kConsumers + 1) * 128;
template <int D>
constexpr int kStages = D == 64 ? 4 : 2;

/// Bytes of a 64-column block of [128 rows][64] elements, and of whole tiles.
constexpr uint32_t kBlockBytes = kKeys * 128;
template <int D>
constexpr uint32_t kTileBytes = D / 64 * kBlockBytes;
template <int D>
constexpr int kSharedBytes = static_cast<int>((1 + 2 * kStages<D>)*kTileBytes<D>) + 2048;

struct Barriers {
  uint64_t k_full[4], k_empty[4], v_full[4], v_empty[4];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// A block's current work; see attention_prefill.cu.
struct Work {
  int row, rows;
  int head;
  int position;
  int page_base;
  int first_page;
  int pages;  ///< up to the last row's key
  __device__ int tiles() const { return (pages + 1) / 2; }
  __device__ int key_end() const { return position + rows; }
};

__device__ Work work_of(const AttentionParams& p, const PrefillTile* tiles, int index) {
  const PrefillTile tile = tiles[index / p.num_kv_heads];
  Work w;
  w.row = tile.row;
  w.rows = tile.rows;
  w.head = index % p.num_kv_heads;
  w.position = tile.position;
  w.first_page = p.window > 0 ? max(0, w.position + 1 - p.window) / kAttentionPage : 0;
  w.page_base = tile.page_base + w.first_page;
  w.pages = (w.key_end() + kAttentionPage - 1) / kAttentionPage - w.first_page;
  return w;
}

struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// One lane: K and V of every tile. A last tile of one page leaves the second page's half as it
/// was.
template <int D>
__device__ void produce_tile(const KvMaps& maps, const Work& w, const int32_t* pages, int tile,
                             uint32_t k_at, uint32_t v_at, Barriers& bars, const Ring& ring) {
  const int count = min(2, w.pages - 2 * tile);
  const uint32_t bytes = static_cast<uint32_t>(count) * (kTileBytes<D> / 2);
  const int ids[2] = {pages[2 * tile], count > 1 ? pages[2 * tile + 1] : 0};
  const auto bring = [&](const CUtensorMap* map, uint32_t at, uint64_t* full, uint64_t* empty) {
    ptx::barrier_wait(ptx::shared_address(empty), ring.parity ^ 1);
    ptx::barrier_expect(ptx::shared_address(full), bytes);
    for (int page = 0; page < count; ++page)
      for (int block = 0; block < D / 64; ++block)
        ptx::bulk_box(at + static_cast<uint32_t>(block) * kBlockBytes +
                          static_cast<uint32_t>(page) * (kBlockBytes / 2),
                      map, ptx::shared_address(full), 0, 0, block, w.head, ids[page]);
  };
  const uint32_t offset = static_cast<uint32_t>(ring.stage) * kTileBytes<D>;
  bring(&maps.k, k_at + offset, &bars.k_full[ring.stage], &bars.k_empty[ring.stage]);
  bring(&maps.v, v_at + offset, &bars.v_full[ring.stage], &bars.v_empty[ring.stage]);
}

/// A warpgroup's 64 packed rows of one work. Thread layout of accumulators: rows lane / 4 and + 8
/// of the warp's 16, columns 8 i + 2 (lane % 4) and + 1.
template <typename T, int D>
struct Rows {
  float out[D / 2];
  uint32_t weights[kKeys / 16][4];
  float max[2], sum[2];
  int limit[2], begin[2];

  __device__ void start(const AttentionParams& p, const Work& w, int packed0) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = (packed0 + lane / 4 + r * 8) / p.group;
      max[r] = -INFINITY;
      sum[r] = 0;
      limit[r] = token < w.rows ? w.position + token + 1 : 0;
      begin[r] = p.window > 0 ? limit[r] - p.window : 0;
    }
  }

  __device__ static void score(float (&s)[kKeys / 2], uint32_t q_at, uint32_t k_at) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const uint32_t at = static_cast<uint32_t>(k / 4) * kBlockBytes + k % 4 * 32;
      wgmma::product_ss<T>(s, wgmma::descriptor(q_at + at, 16, 1024),
                           wgmma::descriptor(k_at + at, 16, 1024), k > 0);
    }
    wgmma::commit();
  }

  __device__ void add_values(uint32_t v_at, bool accumulate) {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
      wgmma::product_rs<T>(
          out, weights[k],
          wgmma::descriptor(v_at + static_cast<uint32_t>(k) * 2048, kBlockBytes, 1024),
          k > 0 || accumulate);
    wgmma::commit();
  }

  /// Scores to weights, in place; `factor` is what the earlier output must be multiplied by.
  __device__ void soften(float (&s)[kKeys / 2], float (&factor)[2], float scale_log2, int key0,
                         bool whole) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (!whole) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        const int key = key0 + i / 4 * 8 + lane % 4 * 2 + i % 2, r = i / 2 % 2;
        if (key < begin[r] || key >= limit[r]) s[i] = -INFINITY;
      }
    }
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
      shift[r] = top[r] == -INFINITY ? 0 : top[r] * scale_log2;  // no key counted yet
      factor[r] = ptx::exp2_fast(max[r] * scale_log2 - shift[r]);
      max[r] = top[r];
      sum[r] *= factor[r];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) {
      s[i] = ptx::exp2_fast(s[i] * scale_log2 - shift[i / 2 % 2]);
      sum[i / 2 % 2] += s[i];
    }
  }

  __device__ void keep(const float (&s)[kKeys / 2]) {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        weights[k][j] = ptx::pack<T>(s[8 * k + 2 * j], s[8 * k + 2 * j + 1]);
  }

  __device__ void pin_weights() {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) wgmma::pin(weights[k]);
  }

  __device__ void rescale(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < D / 2; ++i) out[i] *= factor[i / 2 % 2];
  }

  __device__ void store(const AttentionParams& p, const Work& w, int packed0) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      const int packed = packed0 + lane / 4 + r * 8;
      const int token = packed / p.group, member = packed % p.group;
      if (token >= w.rows) continue;
      T* to = static_cast<T*>(p.out) + (w.row + token) * p.out_stride +
              (static_cast<int64_t>(w.head) * p.group + member) * p.head_dim;
      const float scale = 1 / sum[r];
#pragma unroll
      for (int i = 0; i < D / 8; ++i)
        if (i * 8 < p.head_dim)
          store2<T>(to + i * 8 + lane % 4 * 2, out[4 * i + 2 * r] * scale,
                    out[4 * i + 2 * r + 1] * scale);
    }
  }
};

/// The warpgroup's query rows, packed as token * group + head of the group; zeros behind the last.
/// Asynchronous.
template <typename T, int D>
__device__ void copy_queries(uint32_t to, const AttentionParams& p, const Work& w, int group) {
  constexpr int kChunks = D / 8;
  const T* q = static_cast<const T*>(p.q) + w.row * p.q_stride +
               static_cast<int64_t>(w.head) * p.group * p.head_dim;
  for (int i = static_cast<int>(threadIdx.x) % 128; i < 64 * kChunks; i += 128) {
    const int packed = group * 64 + i / kChunks, chunk = i % kChunks;
    const int token = packed / p.group, member = packed % p.group;
    const bool ok = token < w.rows && chunk * 8 < p.head_dim;
    ptx::copy16(to + tile_offset<D, kTileRowsSm90>(packed, chunk),
                ok ? q + token * p.q_stride + member * p.head_dim + chunk * 8 : q, ok);
  }
  ptx::copy_commit();
}

/// Zeros the rows of a V tile from `from` on: slots behind the sequence may hold NaN, and 0 * NaN
/// is not 0. Both warpgroups do it, each for itself.
template <int D>
__device__ void clear_values(uint32_t v_at, int from, int group) {
  for (int i = static_cast<int>(threadIdx.x) % 128; i < (kKeys - from) * (D / 8); i += 128) {
    const uint32_t at = v_at + tile_offset<D, kKeys>(from + i / (D / 8), i % (D / 8));
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
  }
  ptx::fence_async();
  ptx::named_barrier(1 + group, 128);
}

/// The warpgroups issue their products in turn, so that one computes weights while the other's
/// products run (Shah et al. 2024, section 3.1).
__device__ __forceinline__ void await_turn(int group) {
  ptx::named_barrier(3 + group, 256);
}
__device__ __forceinline__ void pass_turn(int group) {
  asm volatile("bar.arrive %0, %1;" ::"r"(4 - group), "r"(256) : "memory");
}

/// One work of a warpgroup, whose query rows are on their way; brings those of `next` (no rows:
/// there is none) as soon as the last scores are made.
template <typename T, int D>
__device__ void attend(const AttentionParams& p, const Work& w, const Work& next, uint32_t q_base,
                       uint32_t k_at, uint32_t v_at, Barriers& bars, Ring& ring, int group) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int packed0 = group * 64 + thread / 32 * 16;
  const int tiles = w.tiles(), key_base = w.first_page * kAttentionPage;
  const uint32_t q_at = q_base + static_cast<uint32_t>(group) * 64 * 128;
  Rows<T, D> rows;
  rows.start(p, w, packed0);
  const auto release = [&](uint64_t* bar) {
    if (thread % 32 == 0) ptx::barrier_arrive(ptx::shared_address(bar));
  };
  // Every row of the block counts every key of the tile.
  const auto whole = [&](int tile) {
    const int key0 = key_base + tile * kKeys;
    return key0 + kKeys <= w.position + 1 && (p.window == 0 || key0 + p.window >= w.key_end());
  };
  float s[kKeys / 2], factor[2];
  Ring behind = ring;
  const auto tile_bytes = kTileBytes<D>;
  ptx::copy_wait<0>();
  ptx::fence_async();
  ptx::named_barrier(1 + group, 128);
  ptx::barrier_wait(ptx::shared_address(&bars.k_full[ring.stage]), ring.parity);
  wgmma::pin(s);
  await_turn(group);
  wgmma::fence();
  Rows<T, D>::score(s, q_at, k_at + static_cast<uint32_t>(ring.stage) * tile_bytes);
  pass_turn(group);
  wgmma::wait<0>();
  wgmma::pin(s);
  release(&bars.k_empty[ring.stage]);
  ring.advance(kStages<D>);
  rows.soften(s, factor, p.scale_log2, key_base, whole(0));
  rows.keep(s);
  for (int tile = 1; tile < tiles; ++tile) {
    ptx::barrier_wait(ptx::shared_address(&bars.v_full[behind.stage]), behind.parity);
    ptx::barrier_wait(ptx::shared_address(&bars.k_full[ring.stage]), ring.parity);
    wgmma::pin(s);
    wgmma::pin(rows.out);
    rows.pin_weights();
    await_turn(group);
    wgmma::fence();
    Rows<T, D>::score(s, q_at, k_at + static_cast<uint32_t>(ring.stage) * tile_bytes);
    rows.add_values(v_at + static_cast<uint32_t>(behind.stage) * tile_bytes, tile > 1);
    pass_turn(group);
    wgmma::wait<1>();
    wgmma::pin(s);
    release(&bars.k_empty[ring.stage]);
    rows.soften(s, factor, p.scale_log2, key_base + tile * kKeys, whole(tile));
    wgmma::wait<0>();
    wgmma::pin(rows.out);
    release(&bars.v_empty[behind.stage]);
    rows.keep(s);
    rows.rescale(factor);
    behind = ring;
    ring.advance(kStages<D>);
  }
  ptx::named_barrier(1 + group, 128);  // all four warps are done with the query rows
  if (next.rows > 0) copy_queries<T, D>(q_base, p, next, group);
  ptx::barrier_wait(ptx::shared_address(&bars.v_full[behind.stage]), behind.parity);
  const uint32_t last_at = v_at + static_cast<uint32_t>(behind.stage) * tile_bytes;
  const int valid = w.key_end() - (key_base + (tiles - 1) * kKeys);
  if (valid < kKeys) clear_values<D>(last_at, valid, group);
  wgmma::pin(rows.out);
  rows.pin_weights();
  wgmma::fence();
  rows.add_values(last_at, tiles > 1);
  wgmma::wait<0>();
  wgmma::pin(rows.out);
  release(&bars.v_empty[behind.stage]);
  rows.store(p, w, packed0);
}
#endif

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const AttentionParams p, const __grid_constant__ KvMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char shared[];
  const uint32_t aligned = (ptx::shared_address(shared) + 1023) / 1024 * 1024;
  char* base = shared + (aligned - ptx::shared_address(shared));
  const uint32_t q_at = aligned, k_at = q_at + kTileBytes<D>,
                 v_at = k_at + kStages<D> * kTileBytes<D>;
  auto& bars = *reinterpret_cast<Barriers*>(base + (1 + 2 * kStages<D>)*kTileBytes<D>);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kStages<D>) {
    ptx::barrier_init(ptx::shared_address(&bars.k_full[thread]), 1);
    ptx::barrier_init(ptx::shared_address(&bars.v_full[thread]), 1);
    ptx::barrier_init(ptx::shared_address(&bars.k_empty[thread]), kConsumers * 4);
    ptx::barrier_init(ptx::shared_address(&bars.v_empty[thread]), kConsumers * 4);
    ptx::fence_async();
  }
  __syncthreads();
  const auto* plan = static_cast<const PrefillPlan*>(p.workspace);
  const auto* tiles = reinterpret_cast<const PrefillTile*>(plan + 1);
  const int total = plan->num_tiles * p.num_kv_heads;
  Ring ring;
  if (thread >= kConsumers * 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (thread != kConsumers * 128) return;
    for (int i = 0, index; (index = snake(i)) < total; ++i) {
      const Work w = work_of(p, tiles, index);
      for (int tile = 0; tile < w.tiles(); ++tile) {
        produce_tile<D>(maps, w, p.page_indices + w.page_base, tile, k_at, v_at, bars, ring);
        ring.advance(kStages<D>);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const auto work_at = [&](int i) {
      const int index = snake(i);
      return index < total ? work_of(p, tiles, index) : Work{};
    };
    if (thread / 128 == 1) pass_turn(1);  // warpgroup 0 begins
    Work w = work_at(0);
    if (w.rows > 0) copy_queries<T, D>(q_at, p, w, thread / 128);
    for (int i = 0; w.rows > 0; ++i) {
      const Work next = work_at(i + 1);
      attend<T, D>(p, w, next, q_at, k_at, v_at, bars, ring, thread / 128);
      w = next;
    }
  }
#else
  __trap();  // built for sm_90 without its own instructions: better loud than wrong
#endif
}

template <typename T, int D>
void launch(const AttentionParams& p, const KvMaps& maps, cudaStream_t stream) {
  cuda_check(cudaFuncSetAttribute(prefill_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  kSharedBytes<D>),
             "shared memory for prefill attention");
  prefill_kernel<T, D>
      <<<static_cast<unsigned>(p.sms), kThreads, kSharedBytes<D>, stream>>>(p, maps);
  check_launch("prefill attention");
}

}  // namespace

void launch_prefill_sm90(const AttentionParams& params, const KvMaps& maps, cudaStream_t stream) {
  if (params.head_dim <= 64)
    return params.half ? launch<__half, 64>(params, maps, stream)
                       : launch<__nv_bfloat16, 64>(params, maps, stream);
  return params.half ? launch<__half, 128>(params, maps, stream)
                     : launch<__nv_bfloat16, 128>(params, maps, stream);
}

}  // namespace nanoflow::cuda
