// The noise of sampling, defined by integers so that every backend draws the same numbers.
// A token is chosen by argmax of score + Gumbel noise (Gumbel 1954; "Gumbel-max trick"), and the
// noise is a pure function of (seed, position, token): the same in any batch and on any device.
#pragma once

#include <cstdint>

#include "base/random.h"

namespace nanoflow {

/// Key of one row's noise; computed once per row.
constexpr uint64_t noise_key(uint64_t seed, int32_t position) {
  return mix_bits(mix_bits(seed + kGoldenGamma) + kGoldenGamma * static_cast<uint32_t>(position));
}

/// 32 uniform bits for one token of the row with this key.
constexpr uint32_t noise_bits(uint64_t key, int32_t token) {
  return static_cast<uint32_t>(mix_bits(key + kGoldenGamma * static_cast<uint32_t>(token)) >> 32);
}

/// Uniform in (0, 1): (bits + 1/2) / 2^32 in float32, kept below 1 where rounding would reach it.
/// Small values keep their full relative precision, so large noise (-log(-log1p(-u)) of a small u)
/// is not quantised.
constexpr float noise_uniform(uint32_t bits) {
  constexpr float kBelowOne = 0.99999994f;                                      // 1 - 2^-24
  const float u = (static_cast<float>(bits) + 0.5f) * 2.3283064365386963e-10f;  // 2^-32
  return u < kBelowOne ? u : kBelowOne;
}

// Gumbel noise of a token is -log(-log1p(-noise_uniform(noise_bits(key, token)))), in float32 with
// the backend's own log and log1p (a few ulp apart between backends; ties that close may differ).
// It lies in (-2.82, 22.9).

}  // namespace nanoflow
