// Plan: a spec lowered for one model, rank and row bucket. A flat list of bound calls with derived
// waits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/backend.h"
#include "ops/graph.h"

namespace nanoflow {

/// Index into Plan::steps.
using StepId = int;

/// One bound call.
struct Step {
  OpArgs args;
  OpId op = -1;
  int layer = -1;  ///< -1 in prologue and epilogue
  RowRange rows;   ///< of the bucket
  LaneId lane = 0;
  SmBudget sm;
  int64_t workspace_offset = 0;  ///< in the arena
  int64_t workspace_bytes = 0;
  std::vector<StepId> waits;        ///< earlier steps of other lanes that must have finished
  bool signals = false;             ///< some step waits for this one
  std::vector<StepId> after_start;  ///< earlier steps that should have started; a hint
};

struct Plan {
  std::string name;  ///< graph and spec, for traces and messages
  int64_t rows = 0;  ///< the bucket
  int num_lanes = 1;
  /// For steps without prefill rows: what works on those alone is not launched.
  bool decode_only = false;
  std::vector<Step> steps;  ///< in issue order
  /// Where each scratch symbol of the graph begins in the arena; -1 for other symbols.
  std::vector<int64_t> symbol_offset;
  int64_t arena_bytes = 0;
  TensorView arena;  ///< [bytes] uint8; empty in a plan that was lowered to be looked at, not run
  const StepHeader* header = nullptr;
};

}  // namespace nanoflow
