// Energy that devices have used. EnergyMeter, and the meter of the processors' packages, which the
// kernel's power capping counters (RAPL) feed; the GPU's is in gpu_energy.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nanoflow {

/// Starts at zero when it is made. Counters count everything that runs on the device, not this
/// process alone. One thread.
class EnergyMeter {
 public:
  virtual ~EnergyMeter() = default;
  /// Reads the counters.
  virtual void poll() = 0;
  /// Joules since the construction, up to the last poll(); nullopt where there is no counter, or
  /// one became unreadable.
  [[nodiscard]] virtual std::optional<double> joules() const = 0;
  /// Why joules() is nullopt, in a few words.
  [[nodiscard]] virtual std::string problem() const = 0;
};

/// Sums the package counters below /sys/class/powercap. They start over after some 2^18 joules,
/// minutes of full load: poll() is to be called more often than that.
class PackageEnergy final : public EnergyMeter {
 public:
  /// Counters that cannot be read (many systems allow root only) do not count; `root` is another
  /// file system's root in tests.
  explicit PackageEnergy(const std::filesystem::path& root = "/");

  void poll() override;
  [[nodiscard]] std::optional<double> joules() const override;
  [[nodiscard]] std::string problem() const override;

 private:
  struct Counter {
    std::filesystem::path file;
    int64_t last_uj = 0;
    int64_t range_uj = 0;  ///< the value after which it starts over at 0
  };

  std::vector<Counter> counters_;
  int64_t total_uj_ = 0;
  bool broken_ = false;
};

}  // namespace nanoflow
