// Row buckets: the sizes that plans are made for. A step runs in the smallest bucket that holds it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace nanoflow {

/// Smallest bucket of at least `rows` > 0 rows: multiples of 8 up to 64, then eight per doubling,
/// so padding is at most an eighth.
constexpr int64_t row_bucket(int64_t rows) {
  const auto log2 =
      static_cast<int>(std::bit_width(static_cast<uint64_t>(rows - 1))) - 1;  // 64: 65 .. 128
  const int64_t unit = std::max<int64_t>(8, rows > 64 ? int64_t{1} << (log2 - 3) : 0);
  return (rows + unit - 1) / unit * unit;
}

/// All buckets up to that of `rows`, rising.
inline std::vector<int64_t> row_buckets(int64_t rows) {
  std::vector<int64_t> buckets;
  for (int64_t r = 1; r <= rows; r = buckets.back() + 1) buckets.push_back(row_bucket(r));
  return buckets;
}

}  // namespace nanoflow
