#include "base/random.h"

#include <algorithm>

#include "base/check.h"

namespace nanoflow {

int64_t SplitMix64::between(int64_t low, int64_t high) {
  constexpr uint64_t kMaxWidth = uint64_t{1} << 53;  // beyond it a double skips integers
  const uint64_t width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  NANO_CHECK(low <= high && width < kMaxWidth, "[{}, {}]", low, high);
  return std::min(high, low + static_cast<int64_t>(uniform() * (static_cast<double>(width) + 1)));
}

}  // namespace nanoflow
