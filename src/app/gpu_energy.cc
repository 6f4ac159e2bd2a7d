#include "app/gpu_energy.h"

#include <dlfcn.h>

namespace nanoflow {

GpuEnergy::GpuEnergy(const std::string& pci_bus_id, const std::string& library)
    : library_(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (library_ == nullptr) {
    problem_ = library + " of the NVIDIA driver was not found";
    return;
  }
  connect(pci_bus_id);
}

template <typename Function>
Function* GpuEnergy::find(const char* name) {
  auto* function = reinterpret_cast<Function*>(dlsym(library_, name));
  if (function == nullptr && problem_.empty())
    problem_ = std::string("the NVIDIA driver is too old: it has no ") + name;
  return function;
}

void GpuEnergy::connect(const std::string& pci_bus_id) {
  auto* start = find<int()>("nvmlInit_v2");
  auto* find_device = find<int(const char*, Handle*)>("nvmlDeviceGetHandleByPciBusId_v2");
  read_ = find<int(Handle, Counter*)>("nvmlDeviceGetTotalEnergyConsumption");
  explain_ = find<const char*(int)>("nvmlErrorString");
  if (!problem_.empty()) return;
  if (!succeeded(start(), "nvmlInit_v2")) return;
  if (!succeeded(find_device(pci_bus_id.c_str(), &device_), "nvmlDeviceGetHandleByPciBusId_v2"))
    return;
  poll();
  first_mj_ = last_mj_;
}

bool GpuEnergy::succeeded(int status, const char* what) {
  if (status != 0) problem_ = std::string(what) + ": " + explain_(status);
  return status == 0;
}

void GpuEnergy::poll() {
  if (!problem_.empty()) return;
  (void)succeeded(read_(device_, &last_mj_), "nvmlDeviceGetTotalEnergyConsumption");
}

std::optional<double> GpuEnergy::joules() const {
  if (!problem_.empty()) return std::nullopt;
  return static_cast<double>(last_mj_ - first_mj_) * 1e-3;
}

}  // namespace nanoflow
