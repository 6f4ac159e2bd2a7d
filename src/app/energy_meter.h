// Energy that the processors' packages have used, from the kernel's power capping counters (RAPL).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nanoflow {

/// Sums the package counters below /sys/class/powercap. They count everything that runs on the
/// machine, not this process alone. One thread.
class EnergyMeter {
 public:
  /// Starts at zero. Counters that cannot be read (many systems allow root only) do not count;
  /// `root` is another file system's root in tests.
  explicit EnergyMeter(const std::filesystem::path& root = "/");

  /// Reads the counters. They start over after some 2^18 joules, minutes of full load: to be called
  /// more often than that.
  void poll();
  /// Joules since the construction, up to the last poll(); nullopt where there is no counter, or
  /// one became unreadable.
  [[nodiscard]] std::optional<double> joules() const;

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
