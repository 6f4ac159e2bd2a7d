// Matrix products of rows with a weight that is packed in panels of 32 output columns.
// The order in which a row's products are added depends on k alone, so a row has the same bits in
// any batch, at any place in it and on any number of threads.
#pragma once

#include <cstdint>

#include "tensor/tensor_view.h"

namespace nanoflow::cpu {

/// Output columns of one panel.
inline constexpr int64_t kPanelCols = 32;

/// PackedWeight::layout of panels: [ceil(n / 32)][ceil(k / 2)][32][2] for 16-bit types,
/// [ceil(n / 32)][k][32] for float32; what lies behind n and k is zero.
inline constexpr int kPanelLayout = 1;

constexpr int64_t num_panels(int64_t n) {
  return (n + kPanelCols - 1) / kPanelCols;
}
/// Elements of one panel of a matrix with k input features.
constexpr int64_t panel_elements(DType dtype, int64_t k) {
  return (dtype == DType::kF32 ? k : (k + 1) / 2 * 2) * kPanelCols;
}

/// Packs w [n, k] float32, bfloat16 or float16 (rows may be strided) to `out`, of
/// num_panels(n) * panel_elements(dtype, k) elements.
void pack_panels(const TensorView& w, void* out);

/// Whether this CPU multiplies pairs of bfloat16 (AVX512_BF16).
bool has_bf16_dot();

/// The element type in which multiply_panels wants `a`: bfloat16 when both sides are and the CPU
/// multiplies them, else float32.
DType panel_input_dtype(DType a, DType weight);

/// out = a @ w^T (+ bias) for `m` rows.
struct PanelProduct {
  const void* a = nullptr;  ///< [m, k] of panel_input_dtype(); bfloat16 rows of odd k end in a 0
  DType a_dtype = DType::kF32;
  int64_t a_stride = 0;  ///< elements between rows
  int64_t m = 0;
  const void* weight = nullptr;  ///< one packed matrix
  DType weight_dtype = DType::kF32;
  int64_t n = 0;
  int64_t k = 0;
  const float* bias = nullptr;  ///< [n], or null
  void* out = nullptr;          ///< [m, n] float32, bfloat16 or float16
  DType out_dtype = DType::kF32;
  int64_t out_stride = 0;  ///< elements between rows
};

/// The output columns of panels [begin, end). Products are summed in float32.
void multiply_panels(const PanelProduct& product, int64_t begin, int64_t end);

}  // namespace nanoflow::cpu
