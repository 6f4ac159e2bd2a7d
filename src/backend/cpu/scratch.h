// Memory that one lane's ops reuse, so that no op allocates once the lane is warm.
#pragma once

#include <cstdint>

#include "tensor/buffer.h"

namespace nanoflow::cpu {

/// Grows to the largest request. Used by one lane's thread, one op at a time.
class Scratch {
 public:
  /// Starts a new op: what take() returned before is free again. `bytes` bounds all that the op
  /// will take. Throws OutOfMemory.
  void reserve(int64_t bytes) {
    used_ = 0;
    if (bytes > memory_.size()) {
      memory_ = Buffer();
      memory_ = allocate_host(bytes);
    }
  }
  /// `count` uninitialised elements, aligned to 64 bytes. NANO_CHECKs reserve()'s bound.
  template <typename T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(static_cast<std::byte*>(memory_.data()) + used_);
    used_ += bytes<T>(count);
    NANO_CHECK(used_ <= memory_.size(), "scratch of {} bytes", memory_.size());
    return p;
  }
  /// What take<T>(count) uses.
  template <typename T>
  static constexpr int64_t bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  Buffer memory_;
  int64_t used_ = 0;
};

}  // namespace nanoflow::cpu
