// NullRunner: a device that computes nothing. Its steps take a set time and their tokens follow
// from a rule, so what is left of serving is the host's cost: engine, scheduler, text, HTTP.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "base/clock.h"
#include "engine/config.h"
#include "engine/step_runner.h"
#include "model/config.h"

namespace nanoflow {

/// Limits as a device with room for every sequence at full length would give them, or with the
/// cache of config.kv_cache_bytes where that is set. Throws ConfigError when that is not a page.
[[nodiscard]] EngineLimits null_limits(const EngineConfig& config, const ModelConfig& model);

class NullRunner final : public StepRunner {
 public:
  /// Steps take `step_ns` each, one after the other, from their launch on. `ids` (not empty) are
  /// the tokens to choose from; logit biases and constraints do not change the choice.
  NullRunner(EngineLimits limits, std::vector<int32_t> ids, int64_t step_ns);

  [[nodiscard]] EngineLimits limits() const override { return limits_; }
  void launch(const StepBatch& batch) override;
  StepResults results() override;

 private:
  struct Step {
    const StepBatch* batch = nullptr;
    int64_t end_ns = 0;
  };

  /// Index into ids_ of a row's token: that of its sequence's seed and the position.
  [[nodiscard]] size_t choice(const SamplingRow& row) const;

  EngineLimits limits_;
  std::vector<int32_t> ids_;
  int64_t step_ns_;
  SteadyClock clock_;
  std::deque<Step> in_flight_;
  int64_t busy_until_ns_ = 0;
};

}  // namespace nanoflow
