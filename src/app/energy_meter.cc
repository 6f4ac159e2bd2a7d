#include "app/energy_meter.h"

#include <fstream>
#include <system_error>

namespace nanoflow {
namespace {

std::optional<int64_t> read_counter(const std::filesystem::path& file) {
  std::ifstream in(file);
  int64_t value = 0;
  if (in >> value && value >= 0) return value;
  return std::nullopt;
}

/// Of the zones, a package contains its cores and (beside it) its memory; "psys" contains packages.
bool is_package(const std::filesystem::path& zone) {
  std::ifstream in(zone / "name");
  std::string name;
  return in >> name && name.starts_with("package");
}

}  // namespace

PackageEnergy::PackageEnergy(const std::filesystem::path& root) {
  std::error_code ignored;
  for (const auto& zone :
       std::filesystem::directory_iterator(root / "sys/class/powercap", ignored)) {
    if (!is_package(zone.path())) continue;
    const std::filesystem::path file = zone.path() / "energy_uj";
    const std::optional<int64_t> now = read_counter(file);
    const std::optional<int64_t> range = read_counter(zone.path() / "max_energy_range_uj");
    if (now.has_value()) counters_.push_back({file, *now, range.value_or(0)});
  }
}

void PackageEnergy::poll() {
  for (Counter& counter : counters_) {
    const std::optional<int64_t> now = read_counter(counter.file);
    if (!now.has_value() || (*now < counter.last_uj && counter.range_uj < counter.last_uj)) {
      broken_ = true;
      continue;
    }
    total_uj_ += *now - counter.last_uj + (*now < counter.last_uj ? counter.range_uj : 0);
    counter.last_uj = *now;
  }
}

std::optional<double> PackageEnergy::joules() const {
  if (counters_.empty() || broken_) return std::nullopt;
  return static_cast<double>(total_uj_) * 1e-6;
}

std::string PackageEnergy::problem() const {
  return "no readable counter in /sys/class/powercap";
}

}  // namespace nanoflow
