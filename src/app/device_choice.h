// Which device serves: what --device says, or the GPU where there is one. The one place of the
// program that names both backends.
#pragma once

#include <memory>
#include <string>

#include "backend/cpu/backend.h"
#include "ops/backend.h"

namespace nanoflow {

struct DeviceChoice {
  bool is_cuda = false;
  int ordinal = 0;  ///< of the GPU
};

/// True for "auto", "cpu", "cuda" and "cuda:<number>".
bool is_device_name(const std::string& name);

/// `name` is a device name. "auto" takes the first GPU when this program has the CUDA backend and a
/// GPU is visible, else the CPU; it says so on stderr where a GPU is left unused because the
/// program was built without CUDA. Throws ConfigError or CudaError where the device cannot be used,
/// also for "auto" when a GPU is there but unusable: never a silent fallback.
DeviceChoice choose_device(const std::string& name);

/// The device as it is now. Throws CudaError.
DeviceInfo device_info(const DeviceChoice& choice);

/// "0000:1a:00.0" of a GPU. Throws CudaError.
std::string gpu_bus_id(const DeviceChoice& gpu);

/// Bytes per second that a GPU reads of its memory, measured for about a second. Throws CudaError,
/// OutOfMemory.
double gpu_read_rate(const DeviceChoice& gpu);

/// A backend on the device for the calling thread; of `options`, a GPU takes the communicator only.
/// Throws CudaError, ConfigError.
std::unique_ptr<Backend> make_backend(const DeviceChoice& choice, const CpuBackendOptions& options);

}  // namespace nanoflow
