#include "model/convert.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "base/check.h"

namespace nanoflow {
namespace {

template <typename Src, typename Dst>
void convert_as(const void* src, void* dst, int64_t count) {
  const auto* from = static_cast<const std::byte*>(src);
  auto* to = static_cast<Dst*>(dst);
  // Files promise no alignment of their tensors, hence the copies; a constant trip count lets
  // compilers use SIMD at -O2.
  constexpr int64_t kStep = 32;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    Src block[kStep];
    std::memcpy(block, from + static_cast<size_t>(i) * sizeof(Src), sizeof(block));
    for (int64_t j = 0; j < kStep; ++j) to[i + j] = static_cast<Dst>(static_cast<float>(block[j]));
  }
  for (; i < count; ++i) {
    Src value;
    std::memcpy(&value, from + static_cast<size_t>(i) * sizeof(Src), sizeof(Src));
    to[i] = static_cast<Dst>(static_cast<float>(value));
  }
}

template <typename Src>
void convert_from(const void* src, void* dst, DType dst_dtype, int64_t count) {
  switch (dst_dtype) {
    case DType::kF32: convert_as<Src, float>(src, dst, count); break;
    case DType::kF16: convert_as<Src, Float16>(src, dst, count); break;
    case DType::kBF16: convert_as<Src, BFloat16>(src, dst, count); break;
    default: NANO_CHECK(false, "cannot convert to {}", dtype_name(dst_dtype));
  }
}

}  // namespace

void convert_elements(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count) {
  NANO_CHECK(is_weight_dtype(src_dtype) && is_weight_dtype(dst_dtype), "{} to {}",
             dtype_name(src_dtype), dtype_name(dst_dtype));
  if (src_dtype == dst_dtype) {
    std::memcpy(dst, src, static_cast<size_t>(count * dtype_size(dst_dtype)));
    return;
  }
  switch (src_dtype) {
    case DType::kF32: convert_from<float>(src, dst, dst_dtype, count); break;
    case DType::kF16: convert_from<Float16>(src, dst, dst_dtype, count); break;
    default: convert_from<BFloat16>(src, dst, dst_dtype, count); break;
  }
}

}  // namespace nanoflow
