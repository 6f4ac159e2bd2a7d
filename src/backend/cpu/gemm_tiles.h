// The innermost loops of the panel GEMM: a few rows times one to four panels, in registers.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace nanoflow::cpu {

/// Most floats of one tile: 14 rows of one panel, 7 of two or 3 of four.
inline constexpr int64_t kMaxTileElements = int64_t{14} * 32;

/// Most rows of a tile that keep the sums in this CPU's registers, for multiply_tile_pairs() or
/// multiply_tile().
int64_t max_tile_rows(bool pairs);

/// tile [rows, panels * 32] = a [rows, k] times float32 panels; products are added in order of k.
void multiply_tile(const float* a, int64_t a_stride, int64_t rows, const float* panel,
                   int64_t panels, int64_t k, float* tile);

/// The same for bfloat16 pairs, summed as VDPBF16PS does: per pair, the odd product, then the even
/// one, each rounded to float32, subnormals taken as zero. k even; needs has_bf16_dot().
void multiply_tile_pairs(const BFloat16* a, int64_t a_stride, int64_t rows, const BFloat16* panel,
                         int64_t panels, int64_t k, float* tile);

}  // namespace nanoflow::cpu
