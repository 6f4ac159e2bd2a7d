#include "backend/cuda/device.h"

#include <gtest/gtest.h>

#include "backend/cuda/cuda.h"

namespace nanoflow::cuda {
namespace {

TEST(CudaDevices, SurveyNamesDevicesOrAProblemOrNothing) {
  const DeviceSurvey survey = survey_devices();
  for (const DeviceLimits& device : survey.devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.num_sms, 0);
    EXPECT_GE(device.shared_bytes_per_block, 48 << 10);
  }
  EXPECT_FALSE(runtime_description().empty());
}

TEST(CudaDevices, ADeviceThatIsNotThereIsRefusedInOneLine) {
  for (const int ordinal : {-1, 1000}) {
    try {
      (void)require_device(ordinal);
      ADD_FAILURE() << ordinal << " was accepted";
    } catch (const CudaError& e) {
      const std::string message = e.what();
      EXPECT_EQ(message.find('\n'), std::string::npos);
      EXPECT_FALSE(message.empty());
    }
  }
}

}  // namespace
}  // namespace nanoflow::cuda
