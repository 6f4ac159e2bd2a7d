#include "engine/device_memory.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/units.h"

namespace nanoflow {

namespace {

template <typename Allocate>
Buffer allocate(Allocate allocate_bytes, int64_t bytes, const std::string& what,
                const std::string& remedy) {
  try {
    return allocate_bytes(bytes);
  } catch (const OutOfMemory& e) {
    throw OutOfMemory(fmt::format("{} for {} do not fit ({}); {}",
                                  format_bytes(static_cast<double>(bytes)), what, e.what(),
                                  remedy));
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

}  // namespace nanoflow
