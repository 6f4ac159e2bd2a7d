// Conversion of contiguous elements between float dtypes, for loading weights. Internal to model/.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace nanoflow {

/// Whether `dtype` is one of float32, float16, bfloat16.
constexpr bool is_weight_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

/// dst[i] = src[i], rounded to nearest even, for `count` elements. Both dtypes must be
/// is_weight_dtype() (NANO_CHECKed); a copy when they are equal. `src` needs no alignment.
void convert_elements(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count);

}  // namespace nanoflow
