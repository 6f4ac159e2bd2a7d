// Elements of activation dtypes on the device: conversion, 16-byte vectors, and which rows of a
// view are live.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/kernels.h"
#include "base/check.h"

namespace nanoflow::cuda {

using bf16 = __nv_bfloat16;
using fp16 = __half;

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(fp16 x) {
  return __half2float(x);
}
/// Rounded to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else {
    return __float2half_rn(x);
  }
}

/// N elements that are loaded and stored as one access of N * sizeof(T) bytes.
template <typename T, int N>
struct alignas(N * sizeof(T)) Vec {
  T at[N];
};

template <typename T, int N>
__device__ __forceinline__ Vec<T, N> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <typename T, int N>
__device__ __forceinline__ void store_vec(T* p, const Vec<T, N>& v) {
  *reinterpret_cast<Vec<T, N>*>(p) = v;
}

/// Element `i` of memory of any activation dtype.
__device__ __forceinline__ float load_any(const void* p, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBF16: return to_float(static_cast<const bf16*>(p)[i]);
    case DType::kF16: return to_float(static_cast<const fp16*>(p)[i]);
    default: return static_cast<const float*>(p)[i];
  }
}
__device__ __forceinline__ void store_any(void* p, DType dtype, int64_t i, float x) {
  switch (dtype) {
    case DType::kBF16: static_cast<bf16*>(p)[i] = from_float<bf16>(x); break;
    case DType::kF16: static_cast<fp16*>(p)[i] = from_float<fp16>(x); break;
    default: static_cast<float*>(p)[i] = x;
  }
}

/// How many of a view's first rows are not padding; read on the device, since a captured launch
/// serves many steps. A view may have several rows per row of the batch.
struct LiveRows {
  const StepHeader* header = nullptr;
  int begin = 0;  ///< of the launch's row range
  int range = 0;  ///< its size
  int per = 1;    ///< view rows per row of the batch
  int all = 0;    ///< view rows, when there is no header

  __device__ __forceinline__ int count() const {
    if (header == nullptr) return all;
    return min(max(header->num_rows - begin, 0), range) * per;
  }
};

inline LiveRows live_rows(const Launch& launch, int64_t view_rows) {
  LiveRows live{.header = launch.header,
                .begin = static_cast<int>(launch.rows.begin),
                .range = static_cast<int>(launch.rows.size()),
                .all = static_cast<int>(view_rows)};
  if (launch.header == nullptr || view_rows == 0) return live;
  if (launch.rows.size() <= 0) {
    live.range = 0;
    return live;
  }
  NANO_CHECK(view_rows % launch.rows.size() == 0, "a view of {} rows for {} rows of the batch",
             view_rows, launch.rows.size());
  live.per = static_cast<int>(view_rows / launch.rows.size());
  return live;
}

/// Calls body(T{}) with the C++ type of an activation dtype.
template <typename Body>
void with_act_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kBF16: return body(bf16{});
    case DType::kF16: return body(fp16{});
    default:
      NANO_CHECK(dtype == DType::kF32, "{} is no activation dtype", dtype_name(dtype));
      return body(float{});
  }
}

/// Whether every row of the view starts at a multiple of 16 bytes and holds whole 16-byte vectors.
inline bool is_vector_aligned(const TensorView& v) {
  const int64_t element = dtype_size(v.dtype());
  return reinterpret_cast<uintptr_t>(v.data()) % 16 == 0 && v.cols() * element % 16 == 0 &&
         (v.rows() <= 1 || v.row_stride() * element % 16 == 0);
}

}  // namespace nanoflow::cuda
