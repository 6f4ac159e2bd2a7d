#include "backend/cuda/device.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/probe.h"

namespace nanoflow::cuda {
namespace {

std::string cuda_version(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// The kernel module is loaded, so there is a GPU, whether or not its user-space driver is here.
bool has_kernel_driver() {
  std::error_code ignored;
  return std::filesystem::exists("/proc/driver/nvidia/version", ignored) ||
         std::filesystem::exists("/dev/nvidiactl", ignored);
}

/// A GPU that was handed to this system or container.
bool has_device_node() {
  std::error_code ignored;
  for (int i = 0; i < 16; ++i)
    if (std::filesystem::exists(fmt::format("/dev/nvidia{}", i), ignored)) return true;
  return false;
}

/// Why the driver shows no device. Empty: there is none, or CUDA_VISIBLE_DEVICES hides it.
std::string explain(cudaError_t status) {
  int driver = 0, runtime = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  (void)cudaGetLastError();
  if (status == cudaErrorNoDevice) {
    if (!has_device_node() || std::getenv("CUDA_VISIBLE_DEVICES") != nullptr) return {};
    return "an NVIDIA GPU is there, but its driver shows none: nvidia-smi may tell why; or use "
           "--device cpu";
  }
  if (driver == 0) {
    if (!has_kernel_driver()) return {};
    return "an NVIDIA GPU is there, but the driver's library libcuda.so.1 is not: install it (in a "
           "container, start it with the NVIDIA runtime), or use --device cpu";
  }
  if (status == cudaErrorInsufficientDriver)
    return fmt::format(
        "the NVIDIA driver knows CUDA up to {}, this program needs {}: update the driver, or use "
        "--device cpu",
        cuda_version(driver), cuda_version(runtime));
  return fmt::format("the NVIDIA driver does not start: {} ({}); or use --device cpu",
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

DeviceLimits read_limits(int ordinal) {
  cudaDeviceProp prop{};
  cuda_check(cudaGetDeviceProperties(&prop, ordinal), "asking for the GPU's properties");
  char bus_id[32] = {};
  cuda_check(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), ordinal), "asking where the GPU is");
  return {.ordinal = ordinal,
          .name = prop.name,
          .pci_bus_id = bus_id,
          .compute_major = prop.major,
          .compute_minor = prop.minor,
          .num_sms = prop.multiProcessorCount,
          .shared_bytes_per_block = static_cast<int64_t>(prop.sharedMemPerBlockOptin),
          .shared_bytes_per_sm = static_cast<int64_t>(prop.sharedMemPerMultiprocessor),
          .l2_bytes = prop.l2CacheSize,
          .memory_bytes = static_cast<int64_t>(prop.totalGlobalMem)};
}

/// What to do about a GPU that gives no context.
std::string_view remedy(cudaError_t status) {
  switch (status) {
    case cudaErrorDevicesUnavailable:
      return "another program holds it alone, or its compute mode forbids programs: nvidia-smi "
             "shows both";
    case cudaErrorMemoryAllocation:
      return "other programs have taken its memory: nvidia-smi shows which";
    case cudaErrorSystemNotReady:
      return "its fabric manager is not running: start nvidia-fabricmanager";
    default:
      return "nvidia-smi and the kernel's log (dmesg) may tell why; a reset of the GPU may help";
  }
}

/// Why this build cannot use a device; empty if it can.
std::string why_unusable(const DeviceLimits& device) {
  if (device.compute_major < 8)
    return fmt::format(
        "{} has compute capability {}.{}; 8.0 (Ampere) or later is needed: use another GPU or "
        "--device cpu",
        device.name, device.compute_major, device.compute_minor);
  int before = 0;
  (void)cudaGetDevice(&before);
  std::string problem;
  // Makes the GPU's context, which is where a busy or broken one refuses.
  const cudaError_t status = cudaSetDevice(device.ordinal);
  if (status != cudaSuccess)
    problem = fmt::format("{} (GPU {}) cannot be used: {} ({}); {}, or use --device cpu",
                          device.name, device.ordinal, cudaGetErrorString(status),
                          cudaGetErrorName(status), remedy(status));
  else if (!has_kernel_image())
    problem = fmt::format(
        "{} (compute capability {}.{}) cannot run this build's kernels ({}): build with "
        "-DNANOFLOW_CUDA_ARCHS={}{}, or use --device cpu",
        device.name, device.compute_major, device.compute_minor, NANOFLOW_CUDA_ARCHS,
        device.compute_major, device.compute_minor);
  (void)cudaGetLastError();
  (void)cudaSetDevice(before);
  return problem;
}

}  // namespace

DeviceSurvey survey_devices() {
  DeviceSurvey survey;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (status != cudaSuccess) {
    survey.problem = explain(status);
    return survey;
  }
  bool usable = false;
  for (int i = 0; i < count; ++i) {
    try {
      survey.devices.push_back(read_limits(i));
      DeviceLimits& device = survey.devices.back();
      device.unusable = why_unusable(device);
      usable = usable || device.unusable.empty();
      if (survey.problem.empty()) survey.problem = device.unusable;
    } catch (const EnvironmentError& e) {
      survey.problem = e.what();
    }
  }
  if (usable) survey.problem.clear();
  return survey;
}

DeviceLimits require_device(int ordinal) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    const std::string problem = explain(status);
    throw CudaError(problem.empty() ? "no NVIDIA GPU is visible: use --device cpu" : problem);
  }
  if (ordinal < 0 || ordinal >= count)
    throw CudaError(fmt::format("GPU {} is not there; {} visible, numbered from 0", ordinal,
                                count == 1 ? "1 is" : fmt::format("{} are", count)));
  DeviceLimits limits = read_limits(ordinal);
  const std::string problem = why_unusable(limits);
  if (!problem.empty()) throw CudaError(problem);
  return limits;
}

std::string runtime_description() {
  int driver = 0, runtime = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  return fmt::format("CUDA {}, driver for CUDA {}", cuda_version(runtime), cuda_version(driver));
}

}  // namespace nanoflow::cuda
