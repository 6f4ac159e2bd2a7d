// Dependencies: which earlier steps a step must wait for, derived from what they touch. Part of
// lower().
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "pipeline/plan.h"

namespace nanoflow {

/// What one operand of one step touches: an interval in one space. Scratch: bytes of the arena.
/// External symbols and KV caches: rows, in a space of their own per symbol (and layer). The
/// network, which collectives use one at a time, is a space too.
struct Region {
  int64_t space = 0;
  int64_t begin = 0;
  int64_t end = 0;
  bool writes = false;
  Phase phase = Phase::kAny;
};

/// Takes a plan's steps in issue order and derives their waits.
class Dependencies {
 public:
  /// `plan` has its placement; its steps come through add().
  Dependencies(const OpGraph& graph, const Plan& plan);

  /// Sets the waits of `step`, which will be number `id`, and marks the steps it waits for. `order`
  /// is the step's place in the graph's meaning. Throws ConfigError when a conflicting step of a
  /// later place came before.
  void add(Step& step, StepId id, int64_t order, std::vector<Step>& earlier);

 private:
  struct Touch {
    StepId step = -1;
    int64_t order = 0;
    Region region;
  };
  /// By lane: the latest step of that lane that is known to have finished, -1 for none.
  using Clock = std::vector<StepId>;

  [[nodiscard]] Region region_of(const Step& step, const Operand& operand) const;
  [[nodiscard]] Clock latest_conflicts(const Step& step, int64_t order,
                                       const std::vector<Region>& regions,
                                       const std::vector<Step>& earlier) const;
  [[noreturn]] void refuse(const Step& earlier, const Step& later) const;
  void remember(StepId id, int64_t order, const std::vector<Region>& regions);

  const OpGraph& graph_;
  const Plan& plan_;
  std::vector<StepId> last_of_lane_;
  std::vector<Clock>
      finished_;  // by step: what is known to have finished once it has, itself included
  std::map<int64_t, std::vector<Touch>>
      history_;  // by space: touches that later steps may conflict with
};

}  // namespace nanoflow
