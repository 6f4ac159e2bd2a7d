// LengthModel: how long outputs turn out to be, learned from requests that have finished. It
// answers "given that g tokens were generated already, how many will there be?" for admission.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace nanoflow {

/// A running life table (Kaplan & Meier 1958): per range of lengths, how many outputs entered it
/// and how many ended in it. Outputs that are still running count as far as they have come, so
/// early short finishers do not bias it. Older observations fade. Starts from a weak prior.
class LengthModel {
 public:
  LengthModel();

  /// An output passed `length` tokens (1, 2, ...) without ending there.
  void on_token(int64_t length);
  /// An output ended with `length` tokens, by itself or at its limit. Aborts are not reported.
  void on_finish(int64_t length);

  /// Quantile `u` (0 < u < 1) of an output's final length, given that it has `generated` tokens and
  /// has not ended. At least generated + 1.
  [[nodiscard]] int64_t quantile(int64_t generated, double u) const;

 private:
  // Lengths up to 16 have a bucket each, then 8 per doubling, up to 2^24.
  static constexpr int kExact = 16;
  static constexpr int kPerDoubling = 8;
  static constexpr size_t kBuckets = kExact + (24 - 4) * kPerDoubling + 1;

  [[nodiscard]] static size_t bucket_of(int64_t length);
  [[nodiscard]] static int64_t last_length(size_t bucket);
  void observe(size_t bucket, bool ended);
  void refresh() const;

  std::array<double, kBuckets> entered_{};
  std::array<double, kBuckets> ended_{};
  mutable std::array<double, kBuckets> survival_{};  // P(length > last_length(bucket))
  mutable bool stale_ = true;
};

}  // namespace nanoflow
