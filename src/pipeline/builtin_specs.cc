#include "pipeline/builtin_specs.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/mmap.h"

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

bool is_network(const OpNode& node) {
  return node.bound == Resource::kNetwork;
}

using Ops = std::vector<const OpNode*>;

struct LayerParts {
  Ops qkv;  // up to attention
  Ops attn;
  Ops project;  // up to the first collective; empty on one rank
  Ops ffn;
  Ops whole;  // from the first op that both halves must do as one (experts) to the end
};

LayerParts cut_layer(const OpGraph& graph) {
  LayerParts layer;
  Ops* part = &layer.qkv;
  for (const OpNode* node : layer_ops(graph)) {
    if (is_attention(graph, *node)) {
      part = &layer.attn;
    } else if (part != &layer.qkv && !may_cut(*node)) {
      part = &layer.whole;
    } else if (part == &layer.attn) {
      part = &layer.project;
    } else if (part == &layer.project && !part->empty() && is_network(*part->back())) {
      part = &layer.ffn;
    }
    part->push_back(node);
  }
  if (!layer.project.empty() && !is_network(*layer.project.back()))
    std::swap(layer.project, layer.ffn);
  return layer;
}

/// One part of a layer for one half; stage 1 is the next layer's.
struct Turn {
  const Ops* part;
  RowRange rows;
  int stage;
};

std::vector<Turn> half_layer_skew(const LayerParts& layer) {
  const auto& [qkv, attn, project, ffn, whole] = layer;
  constexpr RowRange kFirst{0, 1}, kSecond{1, 2}, kBoth{0, 2};
  if (!whole.empty())
    return {{&attn, kSecond, 0},    {&project, kFirst, 0}, {&ffn, kFirst, 0},
            {&project, kSecond, 0}, {&ffn, kSecond, 0},    {&whole, kBoth, 0},
            {&qkv, kFirst, 1},      {&attn, kFirst, 1},    {&qkv, kSecond, 1}};
  // Attention of one half is beside everything that the other half does between its attentions.
  if (project.empty())
    return {{&attn, kSecond, 0}, {&ffn, kFirst, 0},  {&qkv, kFirst, 1},
            {&attn, kFirst, 1},  {&ffn, kSecond, 0}, {&qkv, kSecond, 1}};
  // Each collective is beside GEMMs of the other half: o's beside qkv, down's beside o.
  return {{&project, kFirst, 0},  {&qkv, kSecond, 0}, {&attn, kSecond, 0}, {&ffn, kFirst, 0},
          {&project, kSecond, 0}, {&qkv, kFirst, 1},  {&attn, kFirst, 1},  {&ffn, kSecond, 0}};
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
  const LayerParts layer = cut_layer(graph);
  if (layer.attn.empty())
    throw ConfigError("pipeline", fmt::format("{} has no attention to overlap", graph.name));
  PipelineSpec spec{.name = fmt::format("overlap{}", lanes), .key = {.rows = 2}};
  for (const Turn& turn : half_layer_skew(layer)) {
    for (const OpNode* node : *turn.part) {
      const LaneId lane = is_network(*node) ? lanes - 1 : is_attention(graph, *node) ? 1 : 0;
      spec.order.push_back(
          {.op = node->name, .rows = turn.rows, .stage = turn.stage, .lane = lane});
    }
  }
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
  if (file_exists(name_or_path)) return read_spec(name_or_path);
  throw ConfigError("pipeline", fmt::format("{} is neither a file nor one of {}", name_or_path,
                                            fmt::join(builtin_spec_names(), ", ")));
}

}  // namespace nanoflow
