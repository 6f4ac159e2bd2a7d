// Any bytes as a .safetensors file: entries that lie inside the file, or FormatError.
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    for (const nanoflow::SafetensorsEntry& entry : nanoflow::parse_safetensors(bytes, "input")) {
      unsigned sum = 0;
      for (const std::byte byte : entry.bytes) sum += static_cast<unsigned>(byte);
      int64_t elements = 1;
      for (const int64_t extent : entry.shape) elements = extent == 0 ? 0 : elements * extent;
      if (!entry.dtype.has_value()) continue;
      const int64_t wanted = elements * nanoflow::dtype_size(*entry.dtype);
      if (wanted != static_cast<int64_t>(entry.bytes.size()) || sum > 255 * size) __builtin_trap();
    }
  } catch (const nanoflow::FormatError&) {
  }
  return 0;
}
