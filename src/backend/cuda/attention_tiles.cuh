// The layout of a KV tile in shared memory, and moves between it, global memory and registers, as
// all attention kernels use them.
#pragma once

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_ptx.cuh"

namespace nanoflow::cuda {

/// Byte offset of 16-byte chunk `chunk` of row `row` of a tile [rows][D] of 16-bit elements, kept
/// as D / W column blocks [rows][W], W = swizzle_block(D), whose chunks are exclusive-ored with the
/// row as the bulk copy engine does it; eight rows of one chunk then lie in different banks.
template <int D, int kRows = kAttentionPage>
__device__ __forceinline__ uint32_t tile_offset(int row, int chunk) {
  constexpr int kBytes = swizzle_block(D) * 2, kChunks = kBytes / 16;
  const auto offset = static_cast<uint32_t>(chunk / kChunks * (kRows * kBytes) + row * kBytes +
                                            chunk % kChunks * 16);
  return offset ^ ((offset >> 7 & (kChunks - 1)) << 4);
}

/// Copies the tile of one (page, head) by `threads` threads; rows from `valid` on and columns
/// behind head_dim become zeros. Asynchronous, as copy16().
template <typename T, int D>
__device__ __forceinline__ void copy_tile(uint32_t to, const void* cache, const AttentionParams& p,
                                          int page, int head, int valid, int thread, int threads) {
  constexpr int kChunks = D / 8;
  const T* from = static_cast<const T*>(cache) + page * p.page_stride + head * p.head_stride;
  for (int i = thread; i < kAttentionPage * kChunks; i += threads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool ok = row < valid && chunk * 8 < p.head_dim;
    ptx::copy16(to + tile_offset<D>(row, chunk), ok ? from + row * p.slot_stride + chunk * 8 : from,
                ok);
  }
}

/// Four neighbouring elements of an output row, in one store where its address allows that.
template <typename T>
__device__ __forceinline__ void store4(T* to, const float4& x) {
  const uint2 packed = {ptx::pack<T>(x.x, x.y), ptx::pack<T>(x.z, x.w)};
  if (reinterpret_cast<uintptr_t>(to) % 8 == 0) {
    *reinterpret_cast<uint2*>(to) = packed;
    return;
  }
  const auto* parts = reinterpret_cast<const T*>(&packed);
  for (int i = 0; i < 4; ++i) to[i] = parts[i];
}

template <typename T>
__device__ __forceinline__ void store2(T* to, float x, float y) {
  const uint32_t packed = ptx::pack<T>(x, y);
  if (reinterpret_cast<uintptr_t>(to) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(to) = packed;
    return;
  }
  const auto* parts = reinterpret_cast<const T*>(&packed);
  to[0] = parts[0];
  to[1] = parts[1];
}

/// Rows [begin, end) of the range that a prefill launch computes.
struct RowSpan {
  int begin, end;
};
__device__ __forceinline__ RowSpan prefill_rows(const AttentionParams& p) {
  RowSpan s = {0, p.num_rows};
  if (p.live_rows != nullptr) s.end = max(0, min(p.num_rows, *p.live_rows - p.row_begin));
  if (p.decode_rows != nullptr) s.begin = max(0, min(s.end, *p.decode_rows - p.row_begin));
  return s;
}

/// The i-th piece of work of a block: tiles are sorted by falling cost, so a snake through the
/// blocks evens the sums out.
__device__ __forceinline__ int snake(int i) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  return i * blocks + (i % 2 == 0 ? block : blocks - 1 - block);
}

}  // namespace nanoflow::cuda
