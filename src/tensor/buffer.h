// Buffer owns memory on one device; ArenaLayout places tensors inside one buffer.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "tensor/tensor_view.h"

namespace nanoflow {

/// Move-only owner of `size` bytes on `device`. The deleter is given by whoever allocated.
class Buffer {
 public:
  using Deleter = std::function<void(void*)>;

  Buffer() = default;
  Buffer(void* data, int64_t size, Device device, Deleter deleter)
      : data_(data), size_(size), device_(device), deleter_(std::move(deleter)) {}
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] int64_t size() const { return size_; }
  [[nodiscard]] Device device() const { return device_; }

  /// Contiguous view of `shape` starting `offset` bytes into the buffer. NANO_CHECKs that it fits.
  [[nodiscard]] TensorView view(DType dtype, std::initializer_list<int64_t> shape,
                                int64_t offset = 0) const;

 private:
  void reset() {
    if (data_ != nullptr && deleter_) deleter_(data_);
    data_ = nullptr;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    std::swap(deleter_, other.deleter_);
  }

  void* data_ = nullptr;
  int64_t size_ = 0;
  Device device_;
  Deleter deleter_;
};

/// Host memory aligned to 64 bytes (a cache line, an AVX-512 register). Throws OutOfMemory.
Buffer allocate_host(int64_t size);

/// Bump allocation of offsets, each aligned to `alignment` bytes. Holds no memory.
class ArenaLayout {
 public:
  explicit ArenaLayout(int64_t alignment = 256) : alignment_(alignment) {}

  /// Offset of `size` new bytes.
  int64_t place(int64_t size) {
    const int64_t offset = size_;
    size_ += (size + alignment_ - 1) / alignment_ * alignment_;
    return offset;
  }
  /// Bytes placed so far, rounded up to the alignment.
  [[nodiscard]] int64_t size() const { return size_; }

 private:
  int64_t alignment_;
  int64_t size_ = 0;
};

}  // namespace nanoflow
