// verify(): proves, independently of lower(), that a plan computes what its graph means.
#pragma once

#include <string>
#include <vector>

#include "pipeline/plan.h"

namespace nanoflow {

/// Problems of the plan, empty when it is right; at most 20 are listed. Recomputes happens-before
/// from lanes and waits alone, and regions from the graph and the final byte placement, and checks
/// that:
///   - waits refer to earlier steps, and every step's op, layer, rows and lane exist;
///   - each op's ranges tile the batch exactly, in every layer; groups are cut together; uncuttable
///   ops are whole;
///   - each conflicting pair is ordered, in the graph's direction;
///   - scratch symbols that live at the same time do not share bytes, everything lies inside the
///   arena, and
///     nothing is read before it was written;
///   - hard SM budgets of all lanes together fit `num_sms`;
///   - network ops are in one order (every rank runs the same plan, so they meet in the same
///   order).
std::vector<std::string> verify(const Plan& plan, const OpGraph& graph, int num_sms);

}  // namespace nanoflow
