// Rows of any activation dtype as float32, and the one order in which reference kernels sum.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor_view.h"

namespace nanoflow::cpu {

/// Calls body(T{}) with the element type of a float32, bfloat16 or float16 tensor.
template <typename Body>
decltype(auto) with_element_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kBF16: return body(BFloat16{});
    case DType::kF16: return body(Float16{});
    default:
      NANO_CHECK(dtype == DType::kF32, "no kernel for {}", dtype_name(dtype));
      return body(float{});
  }
}

/// out[i] = float32 of `data[i]`, i < count.
void load_floats(const void* data, DType dtype, int64_t count, float* out);
/// data[i] = in[i] rounded to nearest even.
void store_floats(void* data, DType dtype, int64_t count, const float* in);

inline const std::byte* row_data(const TensorView& v, int64_t row) {
  return static_cast<const std::byte*>(v.data()) + row * v.row_stride() * dtype_size(v.dtype());
}
inline std::byte* mutable_row_data(const TensorView& v, int64_t row) {
  return static_cast<std::byte*>(v.data()) + row * v.row_stride() * dtype_size(v.dtype());
}
inline void load_row(const TensorView& v, int64_t row, float* out) {
  load_floats(row_data(v, row), v.dtype(), v.cols(), out);
}
inline void store_row(const TensorView& v, int64_t row, const float* in) {
  store_floats(mutable_row_data(v, row), v.dtype(), v.cols(), in);
}
/// A vector of any activation dtype as float32.
std::vector<float> load_vector(const TensorView& v);

/// sum of a[i] * b[i] in float32: partial sum l holds i = l, l + 16, ...; the 16 are then added
/// pairwise. The order depends on n alone.
float dot(const float* a, const float* b, int64_t n);

}  // namespace nanoflow::cpu
