#include "app/device_metrics.h"

#include <optional>
#include <string>

#include "app/datasheet.h"
#include "app/gpu_energy.h"

namespace nanoflow {

std::unique_ptr<EnergyMeter> make_energy_meter(const DeviceChoice& device) {
  if (device.is_cuda) return std::make_unique<GpuEnergy>(gpu_bus_id(device));
  return std::make_unique<PackageEnergy>();
}

DeviceMetrics::DeviceMetrics(ServingStack& stack)
    : stack_(stack),
      energy_(make_energy_meter({.is_cuda = stack.device().device.kind != Device::Kind::kHost,
                                 .ordinal = stack.device().device.ordinal})) {}

void DeviceMetrics::add_to(MetricsExtras& extras) const {
  const EngineStats stats = stack_.engine().stats();
  // As `bench throughput` counts: a multiplication and an addition per active weight and token.
  extras.model_flops = 2 * static_cast<double>(stack_.model_config().parameters().active) *
                       static_cast<double>(stats.prompt_tokens + stats.output_tokens);
  const EngineConfig& engine = stack_.engine_config();
  extras.peak_flops = datasheet_flops(stack_.device().name, *engine.dtype);
  if (extras.peak_flops.has_value()) *extras.peak_flops *= engine.tp_size;
  const BusySnapshot busy = stack_.busy();
  if (busy.timed_steps > 0) {
    for (size_t i = 0; i < kNumTimeKinds; ++i) {
      const auto kind = static_cast<TimeKind>(i);
      extras.kind_seconds.emplace_back(time_kind_name(kind),
                                       static_cast<double>(busy.kind(kind).ns) * 1e-9);
    }
  }
  const std::lock_guard lock(mutex_);
  extras.energy_joules = energy_->joules();
}

void DeviceMetrics::poll() {
  const std::lock_guard lock(mutex_);
  energy_->poll();
}

}  // namespace nanoflow
