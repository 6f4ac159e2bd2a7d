// Error bounds from dtype and reduction length (float32 sums in any order, one rounding on store).
#pragma once

#include <cmath>

#include "compare.h"

namespace nanoflow::testing_ops {

inline constexpr double kEps32 = 5.9604644775390625e-8;  // 2^-24

/// Both sides round their own float32 result once to `dtype`; `tiny` covers subnormal results.
inline double store_bound(DType dtype, double want) {
  const double tiny = dtype == DType::kF16 ? 6e-8 : 1e-37;
  return 2 * dtype_epsilon(dtype) * std::abs(want) + tiny;
}

inline double row_norm(const HostTensor& t, int64_t row) {
  double sum = 0;
  for (int64_t c = 0; c < t.cols; ++c) sum += t.get(row, c) * t.get(row, c);
  return std::sqrt(sum);
}

/// A dot product of `terms` products, given the norms of both sides.
inline double dot_bound(double norm_a, double norm_b, int64_t terms) {
  return norm_a * norm_b * 4 * std::sqrt(static_cast<double>(terms)) * kEps32;
}

/// A result of a few float32 operations, functions within 2 ulp included.
inline double elementwise_bound(double magnitude) {
  return 16 * kEps32 * std::abs(magnitude);
}

inline double exact(int64_t, int64_t, double) {
  return 0;
}

}  // namespace nanoflow::testing_ops
