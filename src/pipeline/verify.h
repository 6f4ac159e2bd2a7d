// verify(): proves, independently of lower(), that a plan computes what its graph means.
#pragma once

#include <string>
#include <vector>

#include "pipeline/plan.h"

namespace nanoflow {

/// Problems of the plan, empty when it is right; at most 20 are listed. Recomputes happens-before
/// from lanes and waits alone, and regions from the graph and the final byte placement, and proves:
///   - waits refer to earlier steps; every step's op, layer, rows and lane exist;
///   - each op's ranges tile the batch exactly, in every layer; groups are cut together; uncuttable
///     ops are whole;
///   - everything lies inside the arena, and in the graph's order every read of scratch finds a
///     value of its own symbol, whatever shares the bytes;
///   - each pair of steps that touches the same bytes, or rows of one external symbol or cache, and
///     writes, is ordered, in the graph's direction;
///   - hard SM budgets of all lanes together fit `num_sms`;
///   - collectives are in one order (every rank runs the same plan, so they meet in it).
std::vector<std::string> verify(const Plan& plan, const OpGraph& graph, int num_sms);

}  // namespace nanoflow
