// The GPUs of this machine: which there are, whether this build can use them, and the numbers that
// kernels size themselves by.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nanoflow::cuda {

struct DeviceLimits {
  int ordinal = 0;
  std::string name;
  std::string pci_bus_id;  ///< "0000:1a:00.0"; other programs' numbers of the GPU may differ
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  int64_t shared_bytes_per_block = 0;  ///< with opt-in
  int64_t shared_bytes_per_sm = 0;
  int64_t l2_bytes = 0;
  int64_t memory_bytes = 0;
  std::string unusable;  ///< why this build cannot use it; empty if it can
  /// Hopper's own instructions (wgmma, tensor maps) can be used.
  [[nodiscard]] bool is_sm90() const { return compute_major == 9; }
};

/// What this process sees of the machine's GPUs. Never throws.
struct DeviceSurvey {
  std::vector<DeviceLimits> devices;  ///< all that the driver shows, usable or not
  /// Why no GPU can be used although one seems to be there (driver missing or too old, kernels of
  /// another architecture): one line that says what to do. Empty when one can, or there is none.
  std::string problem;
};
DeviceSurvey survey_devices();

/// The limits of GPU `ordinal`. Throws CudaError that says why it cannot be used and what to do.
DeviceLimits require_device(int ordinal);

/// "CUDA 13.0, driver for CUDA 13.0"; for reports.
std::string runtime_description();

}  // namespace nanoflow::cuda
