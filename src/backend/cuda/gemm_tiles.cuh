// Which tiles of a grouped product a block computes: worked out on the device from the offsets.
#pragma once

#include "backend/cuda/gemm_grouped.h"

namespace nanoflow::cuda {

/// A tile of the output: tokens [row, row + rows) of an expert, weight tile `column`.
struct Tile {
  int expert = 0, column = 0, row = 0, rows = 0;
};

/// Walks a block's tiles in order; tokens change fastest, so that the blocks at work share weights.
/// Those of a cluster have the same tokens and weight tiles side by side, the last of which may lie
/// behind the weights.
template <int kBlocks>
class Tiles {
 public:
  __device__ Tiles(const GroupedParams& p, const int* first_tile)
      : p_(p),
        first_tile_(first_tile),
        columns_((p.n + 128 * kBlocks - 1) / (128 * kBlocks)),
        at_(static_cast<int>(blockIdx.x) / kBlocks) {}
  __device__ bool next(Tile& tile) {
    if (at_ >= first_tile_[p_.experts] * columns_) return false;
    while (at_ >= first_tile_[expert_ + 1] * columns_) ++expert_;
    const int tiles = first_tile_[expert_ + 1] - first_tile_[expert_];
    const int local = at_ - first_tile_[expert_] * columns_;
    const int begin = p_.offsets[expert_], end = p_.offsets[expert_ + 1];
    // Even shares: at most a tile of tokens, and never so many that none are left for the last.
    const int share = ((end - begin + tiles - 1) / tiles + kGroupedBoxRows - 1) / kGroupedBoxRows *
                      kGroupedBoxRows;
    tile.expert = expert_;
    tile.column = local / tiles * kBlocks + static_cast<int>(blockIdx.x) % kBlocks;
    tile.row = begin + local % tiles * share;
    tile.rows = min(share, end - tile.row);
    at_ += static_cast<int>(gridDim.x) / kBlocks;
    return true;
  }

 private:
  const GroupedParams& p_;
  const int* first_tile_;
  int columns_, expert_ = 0, at_;
};

/// One warp: token tiles before each expert.
__device__ inline void count_tiles(const GroupedParams& p, int tokens, int* first_tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int e0 = 0; e0 < p.experts; e0 += 32) {
    const int e = e0 + lane;
    int sum = e < p.experts ? (p.offsets[e + 1] - p.offsets[e] + tokens - 1) / tokens : 0;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += other;
    }
    if (e < p.experts) first_tile[e + 1] = before + sum;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) first_tile[0] = 0;
}

}  // namespace nanoflow::cuda
