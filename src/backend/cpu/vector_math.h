// exp and log of 16 floats, within 2 ulp of the true value where the comments do not say otherwise
// (vector_math_test.cc). No tables; the polynomials are the functions' own series.
#pragma once

#include "backend/cpu/simd.h"

namespace nanoflow::cpu {

/// e^x for x <= 88; 0 below -87.3 (the last normal result), also for -infinity. NaN gives 0.
NANO_INLINE Floats exp(Floats x) {
  const Floats lowest = splat(-87.3f);
  const Ints representable = x >= lowest;
  const Floats clamped = representable ? x : lowest;
  // x = n * ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that n * kHigh is exact.
  constexpr float kInvLn2 = 1.44269504f, kHigh = 0.693359375f, kLow = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = clamped * kInvLn2 + kRound;
  const Floats n = shifted - kRound;
  const Floats r = clamped - n * kHigh - n * kLow;
  // Taylor: the first term left out, r^8 / 8!, is below 2^-27.
  Floats p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) - 0x4b400000 + 127) << 23;
  const Floats result = p * reinterpret_cast<Floats>(exponent);
  return representable ? result : Floats{};
}

/// ln x for normal x > 0.
NANO_INLINE Floats log(Floats x) {
  // x = m * 2^e with m in [sqrt(1/2), sqrt 2): shifting the exponent's origin to sqrt(1/2).
  const Ints bits = reinterpret_cast<Ints>(x) - 0x3f3504f3;
  const Floats e = __builtin_convertvector(bits >> 23, Floats);
  const Floats m = reinterpret_cast<Floats>((bits & 0x7fffff) + 0x3f3504f3);
  // ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172: the term left out is below 2^-33.
  const Floats f = m - 1.0f;
  const Floats s = f / (m + 1.0f), s2 = s * s;
  Floats p = splat(2.0f / 11);
  p = p * s2 + 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  // ln m = f - s * (f - s2 * p): exact f carries the leading digits.
  const Floats ln_m = f - s * (f - s2 * p);
  return e * 0.693359375f + (ln_m + e * -2.12194440e-4f);
}

/// -ln(1 - u) for u in (0, 1 - 2^-24].
NANO_INLINE Floats negative_log1p(Floats u) {
  const Floats w = 1.0f - u;  // rounded; 1 - u = w + error
  const Floats error = (1.0f - w) - u;
  // For u under 2^-12 the series is exact enough and avoids dividing two rounding errors.
  const Floats small = u * (1.0f + u * (0.5f + u * 0.33333334f));
  const Floats large = -error / w - log(w);
  return u < splat(2.44140625e-4f) ? small : large;
}

}  // namespace nanoflow::cpu
