// Random graphs and random specs for them, legal and not.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/spec.h"
#include "pipeline/toy_graph.h"

namespace nanoflow::toy {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  /// Uniform in [low, high].
  int64_t in(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool chance(int percent) { return in(1, 100) <= percent; }
  template <typename T>
  const T& pick(const std::vector<T>& items) {
    return items[static_cast<size_t>(in(0, static_cast<int64_t>(items.size()) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

/// One op of random operands. `written` knows which phases of each scratch symbol hold a value.
class RandomOps {
 public:
  RandomOps(Random& random, Graph& graph, std::vector<SymbolId> symbols)
      : random_(random), graph_(graph), symbols_(std::move(symbols)) {}

  void add(Section section, const std::string& name) {
    OpNode node{.name = name, .section = section};
    if (random_.chance(12)) node.split = SplitBy::kNone;
    if (random_.chance(15)) node.align_group = 0;
    if (random_.chance(20)) node.bound = Resource::kNetwork;
    const Phase phase = random_.chance(60)   ? Phase::kAny
                        : random_.chance(50) ? Phase::kDecode
                                             : Phase::kPrefill;
    std::vector<SymbolId> left = symbols_;
    bool writes = false;
    for (int64_t operands = random_.in(2, 4); operands > 0 && !left.empty(); --operands) {
      const SymbolId symbol = random_.pick(left);
      std::erase(left, symbol);
      const SymbolSpace space = graph_.get().symbols[static_cast<size_t>(symbol)].space;
      if (space == SymbolSpace::kKvCache && section != Section::kLayer) continue;
      Operand operand{symbol, random_access(), Rows::kSame,
                      random_.chance(80) ? phase : Phase::kAny};
      if (space == SymbolSpace::kScratch && !may_read(operand)) operand.access = Access::kWrite;
      if (operand.access == Access::kRead && random_.chance(40))
        operand.rows = random_.chance(60) ? Rows::kPrefix : Rows::kAll;
      writes |= operand.access != Access::kRead;
      node.operands.push_back(operand);
    }
    if (!writes) return;
    for (const Operand& operand : node.operands)
      if (operand.access != Access::kRead) written_[operand.symbol] |= phases(operand.phase);
    graph_.op(std::move(node));
  }

 private:
  static int phases(Phase phase) {
    return phase == Phase::kDecode ? 1 : phase == Phase::kPrefill ? 2 : 3;
  }
  bool may_read(const Operand& operand) {
    return (written_[operand.symbol] & phases(operand.phase)) == phases(operand.phase);
  }
  Access random_access() {
    return random_.chance(50)   ? Access::kRead
           : random_.chance(50) ? Access::kWrite
                                : Access::kReadWrite;
  }

  Random& random_;
  Graph& graph_;
  std::vector<SymbolId> symbols_;
  std::map<SymbolId, int> written_;
};

inline Graph random_graph(Random& random) {
  Graph graph(static_cast<int>(random.in(1, 5)));
  std::vector<SymbolId> symbols;
  const auto add = [&](const char* kind, SymbolSpace space, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      symbols.push_back(
          graph.symbol(kind + std::to_string(i), space, random.in(1, 3), random.in(1, 2)));
  };
  add("external", SymbolSpace::kExternal, random.in(1, 2));
  add("cache", SymbolSpace::kKvCache, random.in(0, 1));
  add("scratch", SymbolSpace::kScratch, random.in(1, 5));
  RandomOps ops(random, graph, symbols);
  for (int64_t i = random.in(0, 2); i > 0; --i)
    ops.add(Section::kPrologue, "before" + std::to_string(i));
  for (int64_t i = random.in(3, 8); i > 0; --i)
    ops.add(Section::kLayer, "layer" + std::to_string(i));
  for (int64_t i = random.in(0, 1); i > 0; --i)
    ops.add(Section::kEpilogue, "behind" + std::to_string(i));
  return graph;
}

/// Random cuts, lanes and stages; issued in an order that is the graph's own.
inline PipelineSpec random_spec(Random& random, const OpGraph& graph, int num_lanes) {
  PipelineSpec spec{.name = "random", .key = {.rows = random.in(1, 5)}};
  const auto random_cuts = [&] {
    std::vector<int64_t> edges = {0};
    for (int64_t row = 1; row < spec.key.rows; ++row)
      if (random.chance(40)) edges.push_back(row);
    edges.push_back(spec.key.rows);
    return edges;
  };
  const bool group_is_whole =
      std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const OpNode& node) {
        return node.align_group == 0 && node.section == Section::kLayer &&
               node.split == SplitBy::kNone;
      });
  const std::vector<int64_t> whole = {0, spec.key.rows};
  const std::vector<int64_t> group_cuts = group_is_whole ? whole : random_cuts();
  for (const OpNode& node : graph.nodes) {
    if (node.section != Section::kLayer) continue;
    const std::vector<int64_t> edges = node.align_group == 0          ? group_cuts
                                       : node.split == SplitBy::kNone ? whole
                                                                      : random_cuts();
    for (size_t i = 0; i + 1 < edges.size(); ++i)
      spec.order.push_back({.op = node.name,
                            .rows = {edges[i], edges[i + 1]},
                            .lane = static_cast<LaneId>(random.in(0, num_lanes - 1))});
  }
  // Moving the first ops to the period's end, for the next layer, changes no order.
  for (int64_t turns = random.in(0, 2); turns > 0; --turns) {
    const auto middle = spec.order.begin() + random.in(0, static_cast<int64_t>(spec.order.size()));
    for (auto it = spec.order.begin(); it != middle; ++it) ++it->stage;
    std::rotate(spec.order.begin(), middle, spec.order.end());
  }
  return spec;
}

/// Whether the spec issues every two ops that touch the same rows of a symbol in the graph's order,
/// straight from the definition: all pairs of the unrolled loop.
inline bool is_legal(const OpGraph& graph, const PipelineSpec& spec, int64_t bucket) {
  struct Issued {
    const OpNode* node;
    OpId op;
    int layer;
    RowRange rows;
  };
  std::vector<Issued> issued;
  for (int period = -spec.max_stage(); period < graph.num_layers; ++period)
    for (const NanoOp& nano : spec.order) {
      const int layer = period + nano.stage;
      const OpId op = graph.find_op(nano.op);
      const RowRange rows = scale_rows(nano.rows, spec.key.rows, bucket);
      if (layer >= 0 && layer < graph.num_layers && rows.size() > 0)
        issued.push_back({&graph.nodes[static_cast<size_t>(op)], op, layer, rows});
    }
  const auto touched = [&](const Operand& operand, const RowRange& rows) {
    return RowRange{operand.rows == Rows::kSame ? rows.begin : 0,
                    operand.rows == Rows::kAll ? bucket : rows.end};
  };
  const auto conflict = [&](const Issued& a, const Issued& b) {
    for (const Operand& x : a.node->operands)
      for (const Operand& y : b.node->operands) {
        const bool cache =
            graph.symbols[static_cast<size_t>(x.symbol)].space == SymbolSpace::kKvCache;
        if (x.symbol == y.symbol && (x.access != Access::kRead || y.access != Access::kRead) &&
            (x.phase == y.phase || x.phase == Phase::kAny || y.phase == Phase::kAny) &&
            (!cache || a.layer == b.layer) && touched(x, a.rows).overlaps(touched(y, b.rows)))
          return true;
      }
    return false;
  };
  for (size_t j = 0; j < issued.size(); ++j)
    for (size_t i = 0; i < j; ++i)
      if (std::pair(issued[i].layer, issued[i].op) >= std::pair(issued[j].layer, issued[j].op) &&
          conflict(issued[i], issued[j]))
        return false;
  return true;
}

}  // namespace nanoflow::toy
