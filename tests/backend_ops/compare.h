// The comparator of cross-backend tests: every element against a bound of its own.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor_view.h"

namespace nanoflow::testing_ops {

/// A host tensor [rows, cols] in memory of its own, with gaps of `stride - cols` elements between
/// rows and guards before and behind, all of which an op must leave alone.
struct HostTensor {
  HostTensor() = default;
  HostTensor(DType dtype_in, int64_t rows_in, int64_t cols_in, int64_t gap = 0);

  static constexpr int64_t kGuardRows = 1;  // before and behind, each of `stride` elements

  [[nodiscard]] double get(int64_t row, int64_t col) const;
  void set(int64_t row, int64_t col, double value);
  [[nodiscard]] int64_t element_index(int64_t row, int64_t col) const {
    return (row + kGuardRows) * stride + col;
  }
  [[nodiscard]] int64_t total_elements() const { return (rows + 2 * kGuardRows) * stride; }

  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  std::vector<std::byte> bytes;
};

/// Largest allowed |got - want| of an element.
using ElementBound = std::function<double(int64_t row, int64_t col, double want)>;

/// Rows [begin, end) of `got` must be within bound of `want`, all else (other rows, gaps, guards)
/// must be `before` bit for bit. Returns up to five failures as text; NaN equals NaN only.
std::vector<std::string> compare(const HostTensor& got, const HostTensor& want,
                                 const HostTensor& before, int64_t begin, int64_t end,
                                 const ElementBound& bound);

}  // namespace nanoflow::testing_ops
