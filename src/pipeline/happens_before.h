// HappensBefore: which steps of a plan are ordered, from lanes and waits alone. Part of verify().
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "pipeline/plan.h"

namespace nanoflow {

/// For each step the set of steps that have finished when it starts, as bits: a plan of 1,500 steps
/// takes 280 kB.
class HappensBefore {
 public:
  /// Lanes are within [0, plan.num_lanes), waits refer to earlier steps.
  explicit HappensBefore(const Plan& plan) : words_((plan.steps.size() + 63) / 64) {
    std::vector<StepId> last(static_cast<size_t>(plan.num_lanes), -1);
    for (const Step& step : plan.steps) {
      StepId& previous = last[static_cast<size_t>(step.lane)];
      Bits bits(words_);
      if (previous >= 0) add(bits, previous);
      for (const StepId wait : step.waits) add(bits, wait);
      previous = static_cast<StepId>(finished_.size());
      finished_.push_back(std::move(bits));
    }
  }

  /// Whether step `first` has finished when step `second` starts.
  [[nodiscard]] bool operator()(size_t first, size_t second) const {
    return (finished_[second][first / 64] >> (first % 64) & 1) != 0;
  }

 private:
  using Bits = std::vector<uint64_t>;

  /// Adds `step` and all that had finished before it.
  void add(Bits& bits, StepId step) const {
    const auto i = static_cast<size_t>(step);
    for (size_t w = 0; w < words_; ++w) bits[w] |= finished_[i][w];
    bits[i / 64] |= uint64_t{1} << (i % 64);
  }

  const size_t words_;
  std::vector<Bits> finished_;  // by step
};

}  // namespace nanoflow
