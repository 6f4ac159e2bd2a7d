// What /metrics says of the device while serving: model FLOPs, device time by kind of operation,
// and energy. Nothing here is measured by itself: the engine, the backend and the meters count.
#pragma once

#include <memory>
#include <mutex>

#include "app/device_choice.h"
#include "app/energy_meter.h"
#include "app/serving_stack.h"
#include "server/metrics.h"

namespace nanoflow {

/// The GPU's own counter, or that of the processors' packages.
std::unique_ptr<EnergyMeter> make_energy_meter(const DeviceChoice& device);

/// Thread-safe: scrapes come on the server's threads.
class DeviceMetrics {
 public:
  /// `stack` must outlive this. The energy counts from here on.
  explicit DeviceMetrics(ServingStack& stack);

  /// Fills in all but `http`.
  void add_to(MetricsExtras& extras) const;
  /// Reads the energy counters, which start over within minutes: call it more often.
  void poll();

 private:
  ServingStack& stack_;
  mutable std::mutex mutex_;  // guards energy_
  std::unique_ptr<EnergyMeter> energy_;
};

}  // namespace nanoflow
