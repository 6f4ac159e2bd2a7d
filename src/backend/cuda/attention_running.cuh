// The running softmax of one warp of decode attention, and the query fragments that it multiplies.
#pragma once

#include <cmath>

#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/attention_tiles.cuh"

namespace nanoflow::cuda::decode {

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
      ptx::load_matrices(a, k_at + tile_offset<D>(key0 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int n = 0; n < kHeads; ++n)
        ptx::mma<T>(chains[k % kChains][n], a, q[k][n][0], q[k][n][1]);
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
        s[n][j] = ptx::exp2_fast(s[n][j] - max[n][j % 2]);
        sum[n][j % 2] += s[n][j];
      }
      weights[n][0] = ptx::transpose(ptx::pack<T>(s[n][0], s[n][1]));
      weights[n][1] = ptx::transpose(ptx::pack<T>(s[n][2], s[n][3]));
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
      ptx::load_matrices_transposed(
          a, v_at + tile_offset<D>(key0 + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
      if (!kWhole)  // slots behind the sequence may hold NaN, and 0 * NaN is not 0
#pragma unroll
        for (int j = 0; j < 4; ++j) a[j] &= keep[j / 2];
#pragma unroll
      for (int n = 0; n < kHeads; ++n) ptx::mma<T>(out[i][n], a, weights[n][0], weights[n][1]);
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
        const float factor = ptx::exp2_fast(max[n][h] - raised_max);
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
      ptx::load_matrices(r, row_at + static_cast<uint32_t>(min(2 * k + lane / 8, chunks - 1) * 16));
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (k + j / 2 < D / 16) q[k + j / 2][n][j % 2] = 2 * k + j < chunks ? r[j] : 0;
    }
  }
}

}  // namespace nanoflow::cuda::decode
