// Specs that need no search: generated for any graph, as data like every other spec.
#pragma once

#include <string>
#include <vector>

#include "pipeline/spec.h"

namespace nanoflow {

/// Every op whole, in the graph's order, on one lane. The baseline that everything must equal.
PipelineSpec sequential_spec(const OpGraph& graph);

/// Every op in `pieces` equal nano-batches, on one lane: what splitting alone costs. Ops that may
/// not be cut, and groups that are cut together (sparse FFNs, where each piece would read all
/// experts again), stay whole.
PipelineSpec nano_batch_spec(const OpGraph& graph, int pieces);

/// Two halves that run half a layer apart, so that one half's attention is beside the other's GEMMs
/// (Zhu et al. 2024, NanoFlow, section 4), and so are its collectives, when there are any: GEMMs
/// and norms on lane 0, attention on lane 1, collectives on lane `lanes` - 1. `lanes` is 2 or 3.
/// Throws ConfigError when the graph has no attention to overlap.
PipelineSpec overlapped_spec(const OpGraph& graph, int lanes);

/// "sequential", "nanobatch2", "nanobatch4", "overlap2", "overlap3".
std::vector<std::string> builtin_spec_names();

/// The spec that `--pipeline` means: a built-in name, else a file. Throws ConfigError naming the
/// choices.
PipelineSpec load_spec(const std::string& name_or_path, const OpGraph& graph);

}  // namespace nanoflow
