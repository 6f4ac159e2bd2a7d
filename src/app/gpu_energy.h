// Energy of an NVIDIA GPU, from its driver's management library (NVML), which is looked up when the
// meter is made: a machine without it only lacks the figure.
#pragma once

#include <optional>
#include <string>

#include "app/energy_meter.h"

namespace nanoflow {

/// The board's counter: GPU and its memory, in millijoules since the driver was loaded.
class GpuEnergy final : public EnergyMeter {
 public:
  /// `pci_bus_id`: "0000:1a:00.0". `library` is another file in tests. Does not throw.
  explicit GpuEnergy(const std::string& pci_bus_id, const std::string& library = kLibrary);

  void poll() override;
  [[nodiscard]] std::optional<double> joules() const override;
  [[nodiscard]] std::string problem() const override { return problem_; }

 private:
  static constexpr const char* kLibrary = "libnvidia-ml.so.1";
  using Handle = void*;
  using Counter = unsigned long long;  // NOLINT(google-runtime-int): the library's type

  template <typename Function>
  Function* find(const char* name);
  /// nvmlReturn_t, 0: success. Remembers what went wrong.
  bool succeeded(int status, const char* what);
  void connect(const std::string& pci_bus_id);

  void* library_ = nullptr;  // never unloaded: it keeps state until the process ends
  Handle device_ = nullptr;
  int (*read_)(Handle, Counter*) = nullptr;
  const char* (*explain_)(int) = nullptr;
  Counter first_mj_ = 0;
  Counter last_mj_ = 0;
  std::string problem_;
};

}  // namespace nanoflow
