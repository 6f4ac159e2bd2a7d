#include "app/gpu_energy.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

// The fake library knows this GPU, whose counter grows by 1,500 mJ with each reading until the
// fourth, which fails.
constexpr const char* kKnown = "0000:1a:00.0";

TEST(GpuEnergy, CountsFromItsConstructionUntilTheCounterFails) {
  GpuEnergy meter(kKnown, NANOFLOW_FAKE_NVML);
  EXPECT_EQ(meter.problem(), "");
  EXPECT_EQ(meter.joules(), 0.0);
  meter.poll();
  EXPECT_EQ(meter.joules(), 1.5);
  meter.poll();
  EXPECT_EQ(meter.joules(), 3.0);
  meter.poll();
  EXPECT_FALSE(meter.joules().has_value());
  EXPECT_EQ(meter.problem(), "nvmlDeviceGetTotalEnergyConsumption: fake error 15");
}

TEST(GpuEnergy, WithoutTheGpuOrTheLibraryThereIsAReason) {
  GpuEnergy other("0000:ff:00.0", NANOFLOW_FAKE_NVML);
  other.poll();
  EXPECT_FALSE(other.joules().has_value());
  EXPECT_EQ(other.problem(), "nvmlDeviceGetHandleByPciBusId_v2: fake error 6");
  GpuEnergy missing(kKnown, "libnot-there.so.1");
  missing.poll();
  EXPECT_FALSE(missing.joules().has_value());
  EXPECT_EQ(missing.problem(), "libnot-there.so.1 of the NVIDIA driver was not found");
  GpuEnergy wrong(kKnown, "libc.so.6");
  EXPECT_EQ(wrong.problem(), "the NVIDIA driver is too old: it has no nvmlInit_v2");
}

}  // namespace
}  // namespace nanoflow
