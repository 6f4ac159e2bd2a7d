// TensorView: a typed, shaped, non-owning view. It slices by rows and knows nothing else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/check.h"
#include "tensor/dtype.h"

namespace nanoflow {

/// Where bytes live. Host memory is kHost; device memory of rank r's device is {kCuda, ordinal}.
struct Device {
  enum class Kind : uint8_t { kHost, kCuda } kind = Kind::kHost;
  int ordinal = 0;
  bool operator==(const Device&) const = default;
};

/// A view of up to three dimensions, [rows, cols] or [rows, heads, dim]. The last dimensions are
/// contiguous; consecutive rows are `row_stride` elements apart, so a column slice is a view too.
class TensorView {
 public:
  static constexpr int kMaxRank = 3;

  TensorView() = default;
  /// Contiguous view of `shape`.
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device = {});

  [[nodiscard]] void* data() const { return data_; }
  /// Typed pointer to row `row`. Checks that T's size is the dtype's.
  template <typename T>
  [[nodiscard]] T* row(int64_t row) const {
    NANO_CHECK(sizeof(T) == static_cast<size_t>(dtype_size(dtype_)), "wrong element type for {}",
               dtype_name(dtype_));
    return static_cast<T*>(data_) + row * row_stride_;
  }
  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] Device device() const { return device_; }
  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] int64_t dim(int axis) const {
    NANO_CHECK(axis >= 0 && axis < rank_, "axis {} of rank {}", axis, rank_);
    return shape_[static_cast<size_t>(axis)];
  }
  [[nodiscard]] int64_t rows() const { return rank_ == 0 ? 0 : shape_[0]; }
  /// Elements per row: the product of all dimensions but the first.
  [[nodiscard]] int64_t cols() const;
  /// Elements between the starts of consecutive rows (>= cols()).
  [[nodiscard]] int64_t row_stride() const { return row_stride_; }
  [[nodiscard]] bool is_contiguous() const { return rows() <= 1 || row_stride_ == cols(); }
  [[nodiscard]] bool empty() const { return data_ == nullptr || rows() == 0 || cols() == 0; }
  /// rows() * cols() * dtype size: the payload, without gaps between rows.
  [[nodiscard]] int64_t size_bytes() const { return rows() * cols() * dtype_size(dtype_); }

  /// Rows [begin, end). NANO_CHECKs the range.
  [[nodiscard]] TensorView slice_rows(int64_t begin, int64_t end) const;
  /// Columns [begin, end) of a 2-D view, keeping the row stride.
  [[nodiscard]] TensorView slice_cols(int64_t begin, int64_t end) const;
  /// The same rows seen as [rows, heads, cols / heads].
  [[nodiscard]] TensorView split_cols(int64_t heads) const;

  /// "bfloat16[12, 4096]" for messages.
  [[nodiscard]] std::string to_string() const;

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_{};
  int64_t row_stride_ = 0;
};

}  // namespace nanoflow
