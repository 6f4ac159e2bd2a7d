#include "app/energy_meter.h"

#include <fstream>

#include <gtest/gtest.h>

#include "base/test_folder.h"

namespace nanoflow {
namespace {

/// A root folder whose power counters a test writes.
class EnergyMeterTest : public testing::Test {
 protected:
  void write(const std::string& zone, const std::string& name, const std::string& text) const {
    const std::filesystem::path folder = root_ / "sys/class/powercap" / zone;
    std::filesystem::create_directories(folder);
    std::ofstream(folder / name) << text << "\n";
  }
  void zone(const std::string& zone, const std::string& name, int64_t energy_uj) const {
    write(zone, "name", name);
    write(zone, "energy_uj", std::to_string(energy_uj));
    write(zone, "max_energy_range_uj", "1000000000");
  }

  const TestFolder folder_;
  const std::filesystem::path root_ = folder_.path();
};

TEST_F(EnergyMeterTest, SumsPackagesAndNothingTwice) {
  zone("intel-rapl:0", "package-0", 5'000'000);
  zone("intel-rapl:0:0", "core", 1'000'000);
  zone("intel-rapl:1", "package-1", 7'000'000);
  zone("intel-rapl:2", "psys", 90'000'000);
  PackageEnergy meter(root_);
  EXPECT_EQ(meter.joules(), 0.0);
  zone("intel-rapl:0", "package-0", 8'000'000);
  zone("intel-rapl:0:0", "core", 3'000'000);
  zone("intel-rapl:1", "package-1", 7'500'000);
  zone("intel-rapl:2", "psys", 99'000'000);
  meter.poll();
  EXPECT_DOUBLE_EQ(meter.joules().value(), 3.5);
}

TEST_F(EnergyMeterTest, ACounterThatStartsOverGoesOn) {
  zone("intel-rapl:0", "package-0", 999'000'000);
  PackageEnergy meter(root_);
  zone("intel-rapl:0", "package-0", 2'000'000);
  meter.poll();
  EXPECT_DOUBLE_EQ(meter.joules().value(), 3.0);
}

TEST_F(EnergyMeterTest, WithoutAReadableCounterThereIsNoFigure) {
  EXPECT_FALSE(PackageEnergy(root_).joules().has_value());
  write("intel-rapl:0", "name", "package-0");
  EXPECT_FALSE(PackageEnergy(root_).joules().has_value());
  zone("intel-rapl:0", "package-0", 1);
  PackageEnergy meter(root_);
  write("intel-rapl:0", "energy_uj", "nonsense");
  meter.poll();
  EXPECT_FALSE(meter.joules().has_value());
}

}  // namespace
}  // namespace nanoflow
