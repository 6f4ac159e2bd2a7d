#include "app/device_choice.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#ifdef NANOFLOW_HAS_CUDA
#include "backend/cuda/device.h"
#include "backend/cuda/factory.h"
#endif

namespace nanoflow {
namespace {

constexpr std::string_view kCuda = "cuda";

#ifdef NANOFLOW_HAS_CUDA

DeviceChoice choose_cuda(int ordinal) {
  (void)cuda::require_device(ordinal);
  return {.is_cuda = true, .ordinal = ordinal};
}

DeviceChoice choose_any() {
  const cuda::DeviceSurvey survey = cuda::survey_devices();
  if (!survey.problem.empty()) throw ConfigError("--device", survey.problem);
  for (const cuda::DeviceLimits& device : survey.devices)
    if (device.unusable.empty()) return {.is_cuda = true, .ordinal = device.ordinal};
  return {};
}

std::unique_ptr<Backend> make_gpu_backend(const CudaBackendOptions& options) {
  return make_cuda_backend(options);
}

std::string bus_id(int ordinal) {
  return cuda::require_device(ordinal).pci_bus_id;
}

double read_rate(int ordinal) {
  return measure_cuda_read_rate(ordinal, 1);
}

#else

struct CudaBackendOptions {
  int ordinal = 0;
  Communicator* comm = nullptr;
};

DeviceChoice choose_cuda(int) {
  throw ConfigError(
      "--device",
      "this program was built without CUDA: build it again where the NVIDIA driver is "
      "(./serve.sh gets what is missing), or use --device cpu");
}

DeviceChoice choose_any() {
  std::error_code ignored;
  if (std::filesystem::exists("/proc/driver/nvidia/version", ignored))
    throw ConfigError("--device",
                      "an NVIDIA driver is here, but this program was built without CUDA: build it "
                      "again (./serve.sh gets what is missing), or use --device cpu");
  return {};
}

std::unique_ptr<Backend> make_gpu_backend(const CudaBackendOptions&) {
  NANO_CHECK(false, "no CUDA backend was built");
}

std::string bus_id(int) {
  NANO_CHECK(false, "no CUDA backend was built");
}

double read_rate(int) {
  NANO_CHECK(false, "no CUDA backend was built");
}

#endif

}  // namespace

bool is_device_name(const std::string& name) {
  if (name == "auto" || name == "cpu" || name == kCuda) return true;
  if (!name.starts_with("cuda:") || name.size() == 5 || name.size() > 8) return false;
  return std::all_of(name.begin() + 5, name.end(), [](char c) { return '0' <= c && c <= '9'; });
}

DeviceChoice choose_device(const std::string& name) {
  NANO_CHECK(is_device_name(name), "device {}", name);
  if (name == "cpu") return {};
  if (name == "auto") return choose_any();
  return choose_cuda(name == kCuda ? 0 : std::atoi(name.c_str() + kCuda.size() + 1));
}

DeviceInfo device_info(const DeviceChoice& choice) {
  return make_backend(choice, {.threads = 1, .lanes = 1})->device();
}

std::string gpu_bus_id(const DeviceChoice& gpu) {
  return bus_id(gpu.ordinal);
}

double gpu_read_rate(const DeviceChoice& gpu) {
  return read_rate(gpu.ordinal);
}

std::unique_ptr<Backend> make_backend(const DeviceChoice& choice,
                                      const CpuBackendOptions& options) {
  if (choice.is_cuda) return make_gpu_backend({.ordinal = choice.ordinal, .comm = options.comm});
  return std::make_unique<CpuBackend>(options);
}

}  // namespace nanoflow
