// Prefill attention by warp-level products, for any GPU since sm_80 and every head dimension: one
// block computes up to 64 packed rows (tokens times the query heads of one KV head) against its
// sequence's pages, one page at a time, the next one on its way (Dao 2023, algorithm 1).
#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

constexpr int kWarps = kTileRows / 16;
constexpr int kThreads = kWarps * 32;

/// K and V pages are double-buffered where that lets two blocks share an SM.
template <int D>
constexpr int kBuffers = D <= 128 ? 2 : 1;
template <int D>
constexpr int kSharedBytes = (kTileRows + 2 * kBuffers<D> * kAttentionPage) * D * 2 + 1024;

/// A block's current work.
struct Work {
  int row, rows;    ///< in the range
  int head;         ///< KV head
  int position;     ///< of the first row
  int page_base;    ///< where the sequence's page ids begin
  int first, last;  ///< pages
};

/// Query rows of the work, packed as token * group + head of the group; zeros behind the last.
template <typename T, int D>
__device__ void copy_queries(uint32_t to, const AttentionParams& p, const Work& w) {
  constexpr int kChunks = D / 8;
  const T* q = static_cast<const T*>(p.q) + w.row * p.q_stride +
               static_cast<int64_t>(w.head) * p.group * p.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kChunks; i += kThreads) {
    const int packed = i / kChunks, chunk = i % kChunks;
    const int token = packed / p.group, member = packed % p.group;
    const bool ok = token < w.rows && chunk * 8 < p.head_dim;
    ptx::copy16(to + tile_offset<D>(packed, chunk),
                ok ? q + token * p.q_stride + member * p.head_dim + chunk * 8 : q, ok);
  }
}

/// One warp's 16 packed rows.
template <typename T, int D>
struct Rows {
  float out[D / 8][4];
  float max[2], sum[2];
  int limit[2];  ///< keys before this one count; 0 for rows that are not there
  int begin[2];  ///< keys from this one on count

  __device__ void start(const AttentionParams& p, const Work& w, int packed0) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i][j] = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = (packed0 + lane / 4 + r * 8) / p.group;
      max[r] = -INFINITY;
      sum[r] = 0;
      limit[r] = token < w.rows ? w.position + token + 1 : 0;
      begin[r] = p.window > 0 ? limit[r] - p.window : 0;
    }
  }

  __device__ void add(uint32_t q_at, uint32_t k_at, int packed0, float scale_log2, int key0,
                      bool whole, uint32_t (&weights)[kAttentionPage / 16][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float s[kAttentionPage / 8][4] = {};
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t a[4];
      ptx::load_matrices(a, q_at + tile_offset<D>(packed0 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < kAttentionPage / 16; ++n) {
        uint32_t b[4];
        ptx::load_matrices(
            b, k_at + tile_offset<D>(n * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        ptx::mma<T>(s[2 * n], a, b[0], b[1]);
        ptx::mma<T>(s[2 * n + 1], a, b[2], b[3]);
      }
    }
    float top[2] = {max[0], max[1]};
#pragma unroll
    for (int n = 0; n < kAttentionPage / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int key = key0 + n * 8 + lane % 4 * 2 + j % 2;
        if (!whole && (key < begin[j / 2] || key >= limit[j / 2])) s[n][j] = -INFINITY;
        top[j / 2] = fmaxf(top[j / 2], s[n][j]);
      }
    float shift[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
      shift[r] = top[r] == -INFINITY ? 0 : top[r] * scale_log2;  // no key counted yet
      const float factor = ptx::exp2_fast(max[r] * scale_log2 - shift[r]);
      max[r] = top[r];
      sum[r] *= factor;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        out[i][2 * r] *= factor;
        out[i][2 * r + 1] *= factor;
      }
    }
#pragma unroll
    for (int n = 0; n < kAttentionPage / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = ptx::exp2_fast(s[n][j] * scale_log2 - shift[j / 2]);
        sum[j / 2] += s[n][j];
      }
      weights[n / 2][n % 2 * 2] = ptx::pack<T>(s[n][0], s[n][1]);
      weights[n / 2][n % 2 * 2 + 1] = ptx::pack<T>(s[n][2], s[n][3]);
    }
  }

  __device__ void add_values(uint32_t v_at, const uint32_t (&weights)[kAttentionPage / 16][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < kAttentionPage / 16; ++k)
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        uint32_t b[4];
        ptx::load_matrices_transposed(b,
                                      v_at + tile_offset<D>(k * 16 + lane % 16, 2 * d + lane / 16));
        ptx::mma<T>(out[2 * d], weights[k], b[0], b[1]);
        ptx::mma<T>(out[2 * d + 1], weights[k], b[2], b[3]);
      }
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
          store2<T>(to + i * 8 + lane % 4 * 2, out[i][2 * r] * scale, out[i][2 * r + 1] * scale);
    }
  }
};

__device__ Work work_of(const AttentionParams& p, const PrefillTile* tiles, int index) {
  const PrefillTile tile = tiles[index / p.num_kv_heads];
  Work w;
  w.row = tile.row;
  w.rows = tile.rows;
  w.head = index % p.num_kv_heads;
  w.position = tile.position;
  w.page_base = tile.page_base;
  w.first = p.window > 0 ? max(0, w.position + 1 - p.window) / kAttentionPage : 0;
  w.last = (w.position + w.rows + kAttentionPage - 1) / kAttentionPage;
  return w;
}

/// All pages of one work, into `rows` of each warp.
template <typename T, int D>
__device__ void attend(const AttentionParams& p, const Work& w, uint32_t shared_at) {
  constexpr uint32_t kTileBytes = kAttentionPage * D * 2;
  const int thread = static_cast<int>(threadIdx.x), packed0 = thread / 32 * 16;
  const uint32_t q_at = shared_at, pages_at = shared_at + kTileRows * D * 2;
  const auto fetch = [&](int index) {
    const uint32_t to =
        pages_at + static_cast<uint32_t>((index - w.first) % kBuffers<D>) * 2 * kTileBytes;
    const int page = p.page_indices[w.page_base + index];
    const int valid = w.position + w.rows - index * kAttentionPage;
    copy_tile<T, D>(to, p.k, p, page, w.head, valid, thread, kThreads);
    copy_tile<T, D>(to + kTileBytes, p.v, p, page, w.head, valid, thread, kThreads);
    ptx::copy_commit();
  };
  copy_queries<T, D>(q_at, p, w);
  fetch(w.first);
  Rows<T, D> rows;
  rows.start(p, w, packed0);
  for (int index = w.first; index < w.last; ++index) {
    if (kBuffers < D >> 1 && index + 1 < w.last) {
      fetch(index + 1);
      ptx::copy_wait<1>();
    } else {
      ptx::copy_wait<0>();
    }
    __syncthreads();
    const uint32_t k_at =
        pages_at + static_cast<uint32_t>((index - w.first) % kBuffers<D>) * 2 * kTileBytes;
    const int key0 = index * kAttentionPage;
    const bool whole = key0 + kAttentionPage <= w.position + 1 &&
                       (p.window == 0 || key0 + p.window >= w.position + w.rows);
    uint32_t weights[kAttentionPage / 16][4];
    rows.add(q_at, k_at, packed0, p.scale_log2, key0, whole, weights);
    rows.add_values(k_at + kTileBytes, weights);
    __syncthreads();
    if (kBuffers<D> == 1 && index + 1 < w.last) fetch(index + 1);
  }
  rows.store(p, w, packed0);
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads) prefill_kernel(const AttentionParams p) {
  extern __shared__ char shared[];
  const uint32_t shared_at = (ptx::shared_address(shared) + 1023) / 1024 * 1024;
  const auto* plan = static_cast<const PrefillPlan*>(p.workspace);
  const auto* tiles = reinterpret_cast<const PrefillTile*>(plan + 1);
  const int total = plan->num_tiles * p.num_kv_heads;
  for (int i = 0; i * static_cast<int>(gridDim.x) < total; ++i) {
    const int index = snake(i);
    if (index < total) attend<T, D>(p, work_of(p, tiles, index), shared_at);
  }
}

template <typename T, int D>
void launch(const AttentionParams& p, const DeviceLimits& device, cudaStream_t stream) {
  cuda_check(cudaFuncSetAttribute(prefill_kernel<T, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  kSharedBytes<D>),
             "shared memory for prefill attention");
  const int64_t fit = device.shared_bytes_per_sm / (kSharedBytes<D> + 1024);
  const auto blocks = static_cast<unsigned>(p.sms * std::clamp<int64_t>(fit, 1, D <= 128 ? 2 : 1));
  prefill_kernel<T, D><<<blocks, kThreads, kSharedBytes<D>, stream>>>(p);
  check_launch("prefill attention");
}

template <typename T>
void launch(const AttentionParams& p, const DeviceLimits& device, cudaStream_t stream) {
  switch (compiled_head_dim(p.head_dim)) {
    case 64: return launch<T, 64>(p, device, stream);
    case 80: return launch<T, 80>(p, device, stream);
    case 96: return launch<T, 96>(p, device, stream);
    case 128: return launch<T, 128>(p, device, stream);
    default: return launch<T, 256>(p, device, stream);
  }
}

}  // namespace

void launch_prefill(const AttentionParams& params, const DeviceLimits& device,
                    cudaStream_t stream) {
  if (params.half)
    launch<__half>(params, device, stream);
  else
    launch<__nv_bfloat16>(params, device, stream);
}

}  // namespace nanoflow::cuda
