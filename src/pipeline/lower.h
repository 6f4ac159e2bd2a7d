// lower(): from a spec to a plan. Unrolls the layer loop, places scratch memory, binds every call,
// derives waits.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pipeline/plan.h"
#include "pipeline/spec.h"

namespace nanoflow {

/// Everything a plan is bound to: one rank, one bucket.
struct BindEnvironment {
  int64_t rows = 0;            ///< the bucket
  Backend* backend = nullptr;  ///< asked for supports() and workspace_bytes()
  const WeightSource* weights = nullptr;
  /// External symbols by name: at least rows * rows_per_token rows (more where ops read "all").
  std::map<std::string, TensorView, std::less<>> external;
  std::vector<KvCacheView> kv;  ///< one per layer
  StepInputs step;              ///< arrays for at least `rows` rows
  /// [bytes] uint8 that scratch symbols and workspaces are placed in. Empty: the plan only tells
  /// how many bytes it needs (Plan::arena_bytes) and cannot run. Plans that never run at the same
  /// time may share an arena.
  TensorView arena;
};

/// Two steps conflict when they touch overlapping bytes (scratch), rows of one external symbol, or
/// rows of one layer's KV cache, at least one writes, and their phases are not disjoint. The order
/// of a conflicting pair is the graph's: layer by layer, op by op. Collectives conflict, too, in
/// the order of issue. A step waits for those conflicting steps of other lanes that nothing else
/// already orders before it, so no derived wait can be left out. Throws ConfigError when the spec
/// names an unknown op, issues a conflicting pair against the graph's order, does not cover the
/// batch, cuts what may not be cut (so), or needs more lanes than the backend has or an op that it
/// does not support.
Plan lower(const OpGraph& graph, const PipelineSpec& spec, const BindEnvironment& environment);

}  // namespace nanoflow
