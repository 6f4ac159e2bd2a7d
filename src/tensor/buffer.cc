#include "tensor/buffer.h"

#include <cstdlib>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {

TensorView Buffer::view(DType dtype, std::initializer_list<int64_t> shape, int64_t offset) const {
  TensorView view(static_cast<std::byte*>(data_) + offset, dtype, shape, device_);
  NANO_CHECK(offset >= 0 && offset + view.size_bytes() <= size_, "{} at {} in a buffer of {} bytes",
             view.to_string(), offset, size_);
  return view;
}

Buffer allocate_host(int64_t size) {
  constexpr int64_t kAlignment = 64;
  const int64_t rounded =
      std::max<int64_t>(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
  void* data = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded));
  if (data == nullptr)
    throw OutOfMemory(fmt::format("cannot allocate {:.1f} MiB of host memory",
                                  static_cast<double>(size) / (1 << 20)));
  return Buffer(data, size, Device{}, [](void* p) { std::free(p); });
}

}  // namespace nanoflow
