#include "tensor/tensor_view.h"

#include <fmt/format.h>

namespace nanoflow {

TensorView::TensorView(void* data, DType dtype, std::initializer_list<int64_t> shape, Device device)
    : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(shape.size())) {
  NANO_CHECK(rank_ >= 1 && rank_ <= kMaxRank, "rank {}", rank_);
  size_t axis = 0;
  for (const int64_t extent : shape) {
    NANO_CHECK(extent >= 0, "negative extent {}", extent);
    shape_[axis++] = extent;
  }
  row_stride_ = cols();
}

int64_t TensorView::cols() const {
  int64_t product = 1;
  for (int axis = 1; axis < rank_; ++axis) product *= shape_[static_cast<size_t>(axis)];
  return product;
}

TensorView TensorView::slice_rows(int64_t begin, int64_t end) const {
  NANO_CHECK(0 <= begin && begin <= end && end <= rows(), "rows [{}, {}) of {}", begin, end,
             to_string());
  TensorView view = *this;
  if (data_ != nullptr)
    view.data_ = static_cast<std::byte*>(data_) + begin * row_stride_ * dtype_size(dtype_);
  view.shape_[0] = end - begin;
  return view;
}

TensorView TensorView::slice_cols(int64_t begin, int64_t end) const {
  NANO_CHECK(rank_ == 2 && 0 <= begin && begin <= end && end <= dim(1), "columns [{}, {}) of {}",
             begin, end, to_string());
  TensorView view = *this;
  if (data_ != nullptr) view.data_ = static_cast<std::byte*>(data_) + begin * dtype_size(dtype_);
  view.shape_[1] = end - begin;
  return view;
}

TensorView TensorView::split_cols(int64_t heads) const {
  NANO_CHECK(rank_ == 2 && heads > 0 && dim(1) % heads == 0, "{} heads of {}", heads, to_string());
  TensorView view = *this;
  view.rank_ = 3;
  view.shape_[2] = dim(1) / heads;
  view.shape_[1] = heads;
  return view;
}

std::string TensorView::to_string() const {
  return fmt::format("{}[{}]", dtype_name(dtype_),
                     fmt::join(shape_.begin(), shape_.begin() + rank_, ", "));
}

}  // namespace nanoflow
