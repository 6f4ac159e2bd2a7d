// The numbers of a CUDA device that kernels size themselves by.
#pragma once

#include <cstdint>
#include <string>

namespace nanoflow::cuda {

struct DeviceLimits {
  int ordinal = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  int64_t shared_bytes_per_block = 0;  ///< with opt-in
  int64_t shared_bytes_per_sm = 0;
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
  /// Hopper's own instructions (wgmma, tensor maps) can be used.
  [[nodiscard]] bool is_sm90() const { return compute_major == 9; }
};

}  // namespace nanoflow::cuda
