#include "pipeline/builtin_specs.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {
namespace {

std::vector<const OpNode*> layer_ops(const OpGraph& graph) {
  std::vector<const OpNode*> ops;
  for (const OpNode& node : graph.nodes)
    if (node.section == Section::kLayer) ops.push_back(&node);
  return ops;
}

bool may_cut(const OpNode& node) {
  return node.split == SplitBy::kToken && node.align_group < 0;
}

/// Ops that read the KV cache: attention. What is before them prepares it, what is behind consumes
/// it.
bool is_attention(const OpGraph& graph, const OpNode& node) {
  return std::any_of(node.operands.begin(), node.operands.end(), [&](const Operand& operand) {
    return operand.access == Access::kRead &&
           graph.symbols[static_cast<size_t>(operand.symbol)].space == SymbolSpace::kKvCache;
  });
}

}  // namespace

PipelineSpec sequential_spec(const OpGraph& graph) {
  PipelineSpec spec{.name = "sequential", .key = {.rows = 1}};
  for (const OpNode* node : layer_ops(graph))
    spec.order.push_back({.op = node->name, .rows = {0, 1}});
  return spec;
}

PipelineSpec nano_batch_spec(const OpGraph& graph, int pieces) {
  NANO_CHECK(pieces >= 1, "{} pieces", pieces);
  PipelineSpec spec{.name = fmt::format("nanobatch{}", pieces), .key = {.rows = pieces}};
  for (const OpNode* node : layer_ops(graph)) {
    if (!may_cut(*node)) {
      spec.order.push_back({.op = node->name, .rows = {0, pieces}});
      continue;
    }
    for (int piece = 0; piece < pieces; ++piece)
      spec.order.push_back({.op = node->name, .rows = {piece, piece + 1}});
  }
  return spec;
}

PipelineSpec overlapped_spec(const OpGraph& graph, int lanes) {
  NANO_CHECK(lanes == 2 || lanes == 3, "{} lanes", lanes);
  const std::vector<const OpNode*> ops = layer_ops(graph);
  const auto reads_cache = [&](const OpNode* node) { return is_attention(graph, *node); };
  const auto attention = std::find_if(ops.begin(), ops.end(), reads_cache);
  const auto after = std::find_if_not(attention, ops.end(), reads_cache);
  if (attention == ops.end())
    throw ConfigError("pipeline", fmt::format("{} has no attention to overlap", graph.name));

  // From here to the layer's end both halves run as one (a sparse FFN); ops.end() when nothing has
  // to.
  const auto joint =
      std::find_if_not(after, ops.end(), [](const OpNode* node) { return may_cut(*node); });

  const RowRange whole{0, 2}, first{0, 1}, second{1, 2};
  PipelineSpec spec{.name = fmt::format("overlap{}", lanes), .key = {.rows = 2}};
  const auto add = [&](auto begin, auto end, const RowRange& rows, int stage) {
    for (auto it = begin; it != end; ++it) {
      const OpNode& node = **it;
      const LaneId lane = node.bound == Resource::kNetwork ? lanes - 1 : reads_cache(&node) ? 1 : 0;
      spec.order.push_back({.op = node.name, .rows = rows, .stage = stage, .lane = lane});
    }
  };
  // While the first half is in its FFN, the second half's attention runs, and the other way round.
  add(attention, after, second, 0);
  add(after, joint, first, 0);
  if (joint != ops.end()) {
    add(after, joint, second, 0);
    add(joint, ops.end(), whole, 0);
  }
  add(ops.begin(), attention, first, 1);
  add(attention, after, first, 1);
  if (joint == ops.end()) add(after, joint, second, 0);
  add(ops.begin(), attention, second, 1);
  return spec;
}

std::vector<std::string> builtin_spec_names() {
  return {"sequential", "nanobatch2", "nanobatch4", "overlap2", "overlap3"};
}

PipelineSpec load_spec(const std::string& name_or_path, const OpGraph& graph) {
  if (name_or_path == "sequential") return sequential_spec(graph);
  if (name_or_path == "nanobatch2") return nano_batch_spec(graph, 2);
  if (name_or_path == "nanobatch4") return nano_batch_spec(graph, 4);
  if (name_or_path == "overlap2") return overlapped_spec(graph, 2);
  if (name_or_path == "overlap3") return overlapped_spec(graph, 3);
  if (std::filesystem::exists(name_or_path)) return read_spec(name_or_path);
  throw ConfigError("pipeline", fmt::format("{} is neither a file nor one of {}", name_or_path,
                                            fmt::join(builtin_spec_names(), ", ")));
}

}  // namespace nanoflow
