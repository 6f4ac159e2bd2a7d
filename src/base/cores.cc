#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <thread>

namespace nanoflow {
namespace {

/// Cores that the cgroup's CPU quota (version 2, then version 1) pays for, rounded up; a large
/// number without a quota.
int quota_cores(const std::filesystem::path& root) {
  const std::filesystem::path v2 = root / "sys/fs/cgroup/cpu.max", v1 = root / "sys/fs/cgroup/cpu";
  double quota = -1, period = -1;
  std::ifstream file(v2);
  if (!(file >> quota >> period)) {
    std::ifstream(v1 / "cpu.cfs_quota_us") >> quota;
    std::ifstream(v1 / "cpu.cfs_period_us") >> period;
  }
  constexpr double kMaxCores = std::numeric_limits<int>::max();
  if (!(quota > 0 && period > 0)) return std::numeric_limits<int>::max();
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, kMaxCores));
}

}  // namespace

int usable_cores(const std::filesystem::path& root) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int allowed = sched_getaffinity(0, sizeof(set), &set) == 0
                          ? CPU_COUNT(&set)
                          : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(allowed, quota_cores(root)));
}

}  // namespace nanoflow
