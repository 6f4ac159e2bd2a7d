// Vectors of 16 floats for the fast kernels, written with the compiler's vector extensions: one
// AVX-512 register, or two AVX2 ones.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

#if defined(__clang__)
#define NANO_UNROLL _Pragma("unroll")
#else
#define NANO_UNROLL _Pragma("GCC unroll 32")
#endif
#define NANO_INLINE inline __attribute__((always_inline))
// Vectors are only passed between inlined functions, so their calling convention is of no concern.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace nanoflow::cpu {

inline constexpr int64_t kSimd = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using UInts = uint32_t __attribute__((vector_size(64)));
using Halves = uint16_t __attribute__((vector_size(32)));

NANO_INLINE Floats splat(float x) {
  return x - Floats{};
}
NANO_INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
NANO_INLINE Floats load(const BFloat16* p) {
  Halves h;
  std::memcpy(&h, p, sizeof(h));
  return reinterpret_cast<Floats>(__builtin_convertvector(h, UInts) << 16);
}
NANO_INLINE Floats load(const Float16* p) {
  Floats v;
  for (int i = 0; i < kSimd; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
NANO_INLINE void store(float* p, Floats v) {
  std::memcpy(p, &v, sizeof(v));
}
NANO_INLINE void store(BFloat16* p, Floats v) {
  const UInts u = reinterpret_cast<UInts>(v);
  UInts bits = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const Ints is_nan = reinterpret_cast<Ints>(v != v);  // NOLINT(misc-redundant-expression): NaN
  bits = reinterpret_cast<UInts>(is_nan ? reinterpret_cast<Ints>((u >> 16) | 0x40u)
                                        : reinterpret_cast<Ints>(bits));
  const Halves h = __builtin_convertvector(bits, Halves);
  std::memcpy(static_cast<void*>(p), &h, sizeof(h));
}
NANO_INLINE void store(Float16* p, Floats v) {
  for (int i = 0; i < kSimd; ++i) p[i] = Float16(v[i]);
}
/// The first `count` <= 16 elements; the others are 0.
template <typename T>
NANO_INLINE Floats load_part(const T* p, int64_t count) {
  Floats v{};
  for (int64_t i = 0; i < count; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
template <typename T>
NANO_INLINE void store_part(T* p, Floats v, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = T(v[i]);
}
/// Halves of a vector, for reductions.
using HalfFloats = float __attribute__((vector_size(32)));
using QuarterFloats = float __attribute__((vector_size(16)));
NANO_INLINE HalfFloats low_half(Floats v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
}
NANO_INLINE HalfFloats high_half(Floats v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
/// Pairwise, as element.h's dot().
NANO_INLINE float sum(Floats v) {
  const HalfFloats h = low_half(v) + high_half(v);
  const QuarterFloats q =
      __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
  return (q[0] + q[2]) + (q[1] + q[3]);
}
NANO_INLINE Floats max(Floats a, Floats b) {
  return a > b ? a : b;
}
NANO_INLINE float max(Floats v) {
  const HalfFloats a = low_half(v), b = high_half(v);
  const HalfFloats h = a > b ? a : b;
  const QuarterFloats c = __builtin_shufflevector(h, h, 0, 1, 2, 3);
  const QuarterFloats d = __builtin_shufflevector(h, h, 4, 5, 6, 7);
  const QuarterFloats q = c > d ? c : d;
  const float x = q[0] > q[2] ? q[0] : q[2], y = q[1] > q[3] ? q[1] : q[3];
  return x > y ? x : y;
}

}  // namespace nanoflow::cpu
