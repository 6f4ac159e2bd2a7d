// Random bits that are the same on every machine and in every library: SplitMix64 (Steele, Lea and
// Flood 2014) and its finaliser.
#pragma once

#include <cstdint>

namespace nanoflow {

/// 2^64 / golden ratio, odd: the step between SplitMix64's states.
inline constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15ull;

/// Bijective mixing of 64 bits (figure 15 of the paper).
constexpr uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// A sequence of random numbers. Not thread-safe.
class SplitMix64 {
 public:
  explicit constexpr SplitMix64(uint64_t seed) : state_(seed) {}
  constexpr uint64_t next() { return mix_bits(state_ += kGoldenGamma); }
  /// Uniform in [0, 1), in steps of 2^-53.
  constexpr double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  /// Uniform integer in [low, high], both included. Aborts unless 0 <= high - low < 2^53.
  int64_t between(int64_t low, int64_t high);

 private:
  uint64_t state_;
};

}  // namespace nanoflow
