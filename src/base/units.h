// Sizes as a person reads them.
#pragma once

#include <cstdint>
#include <string>

namespace nanoflow {

/// "1.5 GiB", "312 B".
std::string format_bytes(double bytes);

/// 2^30 bytes are 1.
constexpr double gib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

}  // namespace nanoflow
