#include "engine/device_memory.h"

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {

namespace {

template <typename Allocate>
Buffer allocate(Allocate allocate_bytes, int64_t bytes, const std::string& what,
                const std::string& remedy) {
  try {
    return allocate_bytes(bytes);
  } catch (const OutOfMemory& e) {
    throw OutOfMemory(
        fmt::format("{} for {} do not fit ({}); {}", format_bytes(bytes), what, e.what(), remedy));
  }
}

}  // namespace

Buffer allocate_for(Backend& backend, int64_t bytes, const std::string& what,
                    const std::string& remedy) {
  return allocate([&](int64_t n) { return backend.allocate(n); }, bytes, what, remedy);
}

Buffer allocate_pinned_for(Backend& backend, int64_t bytes, const std::string& what,
                           const std::string& remedy) {
  return allocate([&](int64_t n) { return backend.allocate_pinned(n); }, bytes, what, remedy);
}

std::string format_bytes(int64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  return mib >= 1024 ? fmt::format("{:.2f} GiB", mib / 1024) : fmt::format("{:.1f} MiB", mib);
}

}  // namespace nanoflow
