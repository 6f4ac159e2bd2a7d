#include "backend/cpu/gemm_panels.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/gemm_tiles.h"
#include "backend/cpu/simd.h"

namespace nanoflow::cpu {
namespace {

template <typename T>
void pack(const TensorView& w, T* out) {
  const int64_t n = w.rows(), k = w.cols();
  const int64_t pair = sizeof(T) == 2 ? 2 : 1;
  const int64_t elements = panel_elements(w.dtype(), k);
  for (int64_t p = 0; p < num_panels(n); ++p, out += elements) {
    std::fill_n(out, elements, T{});
    const int64_t cols = std::min(kPanelCols, n - p * kPanelCols);
    for (int64_t c = 0; c < cols; ++c) {
      const T* row = w.row<T>(p * kPanelCols + c);
      for (int64_t i = 0; i < k; ++i) out[(i / pair * kPanelCols + c) * pair + i % pair] = row[i];
    }
  }
}

/// A panel of 16-bit pairs as the float32 panel [k][32].
template <typename T>
void widen_panel(const T* in, int64_t k, float* out) {
  float pairs[2 * kPanelCols];
  for (int64_t i = 0; i < k; i += 2, in += 2 * kPanelCols) {
    for (int64_t v = 0; v < 2 * kPanelCols; v += kSimd) store(pairs + v, load(in + v));
    for (int64_t odd = 0; odd < std::min<int64_t>(2, k - i); ++odd)
      for (int64_t c = 0; c < kPanelCols; ++c) out[(i + odd) * kPanelCols + c] = pairs[2 * c + odd];
  }
}

/// Writes a tile [rows][tile_cols] of sums to the output, with bias, as out_dtype.
template <typename T>
void write_tile(const PanelProduct& p, const float* tile, int64_t tile_cols, int64_t row,
                int64_t rows, int64_t col) {
  const int64_t cols = std::min(tile_cols, p.n - col);
  for (int64_t i = 0; i < rows; ++i) {
    const float* in = tile + i * tile_cols;
    T* out = static_cast<T*>(p.out) + (row + i) * p.out_stride + col;
    int64_t c = 0;
    for (; c + kSimd <= cols; c += kSimd)
      store(out + c, p.bias == nullptr ? load(in + c) : load(in + c) + load(p.bias + col + c));
    for (; c < cols; ++c) out[c] = T(in[c] + (p.bias == nullptr ? 0.0f : p.bias[col + c]));
  }
}

/// Panels that one tile of `rows` rows spans: few rows leave registers for more columns, and need
/// them to hide the latency of the multiply-add.
int64_t panels_per_tile(int64_t rows, int64_t left) {
  return rows <= 3 && left >= 4 ? 4 : rows <= 7 && left >= 2 ? 2 : 1;
}

}  // namespace

void pack_panels(const TensorView& w, void* out) {
  with_element_type(w.dtype(), [&]<typename T>(T) { pack(w, static_cast<T*>(out)); });
}

DType panel_input_dtype(DType a, DType weight) {
  const bool pairs = a == DType::kBF16 && weight == DType::kBF16 && has_bf16_dot();
  return pairs ? DType::kBF16 : DType::kF32;
}

void multiply_panels(const PanelProduct& p, int64_t begin, int64_t end) {
  if (p.m == 0) return;
  const bool pairs = p.a_dtype == DType::kBF16;
  const bool widen = !pairs && p.weight_dtype != DType::kF32;
  const int64_t tile_limit = max_tile_rows(pairs);
  const int64_t blocks = (p.m + tile_limit - 1) / tile_limit;
  const int64_t weight_panel = panel_elements(p.weight_dtype, p.k) * dtype_size(p.weight_dtype);
  std::vector<float> wide(static_cast<size_t>(widen ? 4 * p.k * kPanelCols : 0));
  alignas(64) float tile[kMaxTileElements];
  for (int64_t panel = begin; panel < end;) {
    const int64_t largest_block = (p.m + blocks - 1) / blocks;
    const int64_t span = panels_per_tile(largest_block, end - panel);
    const std::byte* weight = static_cast<const std::byte*>(p.weight) + panel * weight_panel;
    if (widen)
      with_element_type(p.weight_dtype, [&]<typename T>(T) {
        for (int64_t s = 0; s < span; ++s)
          if constexpr (sizeof(T) == 2)
            widen_panel(reinterpret_cast<const T*>(weight + s * weight_panel), p.k,
                        wide.data() + s * p.k * kPanelCols);
      });
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t row = p.m * b / blocks, rows = p.m * (b + 1) / blocks - row;
      const int64_t a_offset = row * p.a_stride;
      if (pairs) {
        multiply_tile_pairs(static_cast<const BFloat16*>(p.a) + a_offset, p.a_stride, rows,
                            reinterpret_cast<const BFloat16*>(weight), span, (p.k + 1) / 2 * 2,
                            tile);
      } else {
        multiply_tile(static_cast<const float*>(p.a) + a_offset, p.a_stride, rows,
                      widen ? wide.data() : reinterpret_cast<const float*>(weight), span, p.k,
                      tile);
      }
      with_element_type(p.out_dtype, [&]<typename T>(T) {
        write_tile<T>(p, tile, span * kPanelCols, row, rows, panel * kPanelCols);
      });
    }
    panel += span;
  }
}

}  // namespace nanoflow::cpu
