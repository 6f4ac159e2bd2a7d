// The report of a throughput run: its figures beside the ceilings of the same process.
#pragma once

#include <optional>

#include "api/throughput.h"
#include "app/ceilings.h"
#include "app/energy_meter.h"
#include "base/json.h"
#include "engine/config.h"
#include "model/config.h"
#include "ops/backend.h"
#include "ops/busy_times.h"

namespace nanoflow {

struct ThroughputReport {
  const ThroughputResult& result;
  const BusySnapshot busy;  ///< during the run
  const Ceilings& ceilings;
  const ModelConfig& model;
  const EngineConfig& engine;  ///< with its dtype decided
  const DeviceInfo& device;
  const EnergyMeter& energy;  ///< made at the run's start, polled at its end

  [[nodiscard]] double tokens() const;     ///< prompt + generated
  [[nodiscard]] double whole_run() const;  ///< tok/s
  /// tok/s if every token cost its GEMM FLOPs at the measured rate and nothing else.
  [[nodiscard]] double compute_optimum() const;
  /// The same plus reading every decode's context at the measured bandwidth, one after the other.
  [[nodiscard]] double sequential_roofline() const;
  /// Share of the datasheet's FLOP/s of all ranks, whole run; none: no datasheet.
  [[nodiscard]] std::optional<double> mfu() const;

  /// Figures that are not known are null.
  [[nodiscard]] Json to_json() const;
  /// Prints on stdout; figures that are not known are "n/a" with the reason.
  void print() const;
};

}  // namespace nanoflow
