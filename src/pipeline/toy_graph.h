// Toy graphs: ops that mix 64-bit integers, so that every read of a wrong or half-written value
// changes bits that the result shows. A row's result depends on the rows that its operands declare
// and on nothing else, as a real op's does. For tests only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/graph.h"
#include "ops/sampling_noise.h"
#include "pipeline/lower.h"

namespace nanoflow::toy {

/// One bound toy op. Travels in GemmArgs::weight.handle, since nothing else looks there.
struct Call {
  struct Term {
    TensorView whole;  ///< [bucket * rows_per_token, cols] int64
    int64_t rows_per_token = 1;
    Operand operand;
  };
  std::vector<Term> terms;
  RowRange rows;
  uint64_t salt = 0;
  const StepHeader* header = nullptr;

  [[nodiscard]] bool in_phase(Phase phase, int64_t row) const {
    const bool decode = row < header->num_decode_rows;
    return phase == Phase::kAny || (phase == Phase::kDecode) == decode;
  }

  /// Writes, into each written cell of a live row, a mix of all cells that the row may read.
  void run() const {
    const int64_t end = std::min<int64_t>(rows.end, header->num_rows);
    std::vector<uint64_t> mixed;
    for (int64_t row = rows.begin; row < end; ++row) mixed.push_back(read(row));
    for (int64_t row = rows.begin; row < end; ++row)
      write(row, mixed[static_cast<size_t>(row - rows.begin)]);
  }

 private:
  template <typename Body>
  static void for_cells(const Term& term, int64_t row, const Body& body) {
    for (int64_t r = row * term.rows_per_token; r < (row + 1) * term.rows_per_token; ++r)
      for (int64_t c = 0; c < term.whole.cols(); ++c) body(term.whole.row<uint64_t>(r)[c]);
  }
  [[nodiscard]] uint64_t read(int64_t row) const {
    uint64_t sum = mix_bits(salt + static_cast<uint64_t>(row));
    for (const Term& term : terms) {
      if (term.operand.access == Access::kWrite) continue;
      // A row of a prefix op looks back from itself, as causal attention does.
      const int64_t first = term.operand.rows == Rows::kSame ? row : 0;
      const int64_t last = term.operand.rows == Rows::kAll ? header->num_rows : row + 1;
      for (int64_t other = first; other < last; ++other)
        if (in_phase(term.operand.phase, other))
          for_cells(term, other, [&](uint64_t cell) { sum = mix_bits(sum ^ cell) + salt; });
    }
    return sum;
  }
  void write(int64_t row, uint64_t value) const {
    for (const Term& term : terms)
      if (term.operand.access != Access::kRead && in_phase(term.operand.phase, row))
        for_cells(term, row, [&](uint64_t& cell) { cell = value = mix_bits(value + 1); });
  }
};

inline const Call& call_of(const OpArgs& args) {
  return *static_cast<const Call*>(std::get<GemmArgs>(args).weight.handle);
}

/// Builds an OpGraph of toy ops, and keeps what they bind alive.
class Graph {
 public:
  explicit Graph(int num_layers) {
    graph_.name = "toy";
    graph_.num_layers = num_layers;
  }

  SymbolId symbol(std::string name, SymbolSpace space = SymbolSpace::kScratch, int64_t cols = 1,
                  int64_t rows_per_token = 1) {
    return graph_.add_symbol({std::move(name), cols, DType::kI64, rows_per_token, space});
  }
  /// What `node` binds to is filled in.
  OpId op(OpNode node) {
    const uint64_t id = graph_.nodes.size();
    std::vector<std::pair<Operand, Symbol>> operands;
    for (const Operand& operand : node.operands)
      operands.emplace_back(operand, graph_.symbols[static_cast<size_t>(operand.symbol)]);
    node.bind = [calls = calls_, operands, id](const Binder& binder) -> OpArgs {
      Call& call = calls->emplace_back();
      call.rows = binder.rows();
      call.salt = mix_bits(id * 1000 + static_cast<uint64_t>(binder.layer() + 1));
      call.header = binder.step().header;
      for (const auto& [operand, symbol] : operands) {
        const int64_t rows = binder.step().token_ids.rows() * symbol.rows_per_token;
        call.terms.push_back(
            {symbol.space == SymbolSpace::kKvCache
                 ? TensorView(binder.kv_cache().k, DType::kI64, {rows, symbol.cols})
                 : binder.view_all(operand.symbol),
             symbol.rows_per_token, operand});
      }
      return GemmArgs{.weight = {.handle = &call}};
    };
    return graph_.add(std::move(node));
  }
  [[nodiscard]] const OpGraph& get() const { return graph_; }

 private:
  OpGraph graph_;
  // Shared with the graph's bind functions, which outlive this only in copies of the graph.
  std::shared_ptr<std::deque<Call>> calls_ = std::make_shared<std::deque<Call>>();
};

/// Five ops, as in a transformer's layer: qkv, attention over a cache, output projection, its
/// all-reduce, and a feed-forward part that ends in the residual stream.
inline Graph layer_graph(int num_layers) {
  Graph graph(num_layers);
  const SymbolId x = graph.symbol("x", SymbolSpace::kExternal, 3);
  const SymbolId kv = graph.symbol("kv", SymbolSpace::kKvCache, 2);
  const SymbolId qkv = graph.symbol("qkv", SymbolSpace::kScratch, 2);
  const SymbolId attn = graph.symbol("attn", SymbolSpace::kScratch, 1, 2);
  const SymbolId delta = graph.symbol("delta");
  graph.op({.name = "qkv", .operands = {{x}, {qkv, Access::kWrite}, {kv, Access::kWrite}}});
  graph.op({.name = "attn",
            .operands = {{qkv}, {kv, Access::kRead, Rows::kPrefix}, {attn, Access::kWrite}},
            .bound = Resource::kMemory});
  graph.op({.name = "o", .operands = {{attn}, {delta, Access::kWrite}}});
  graph.op({.name = "all_reduce",
            .operands = {{delta, Access::kReadWrite}},
            .bound = Resource::kNetwork});
  graph.op({.name = "ffn", .operands = {{delta}, {x, Access::kReadWrite}}});
  return graph;
}

/// The memory of one rank and bucket: external symbols, caches and scratch.
class Memory {
 public:
  /// At most one cache symbol, of the largest shape in the graph.
  Memory(const OpGraph& graph, int64_t bucket, StepHeader header)
      : graph_(graph), bucket_(bucket), header_(header) {
    for (const Symbol& symbol : graph.symbols)
      if (symbol.space == SymbolSpace::kExternal) external_[symbol.name].resize(cells(symbol));
    caches_.resize(static_cast<size_t>(graph.num_layers));
    for (std::vector<uint64_t>& cache : caches_)
      for (const Symbol& symbol : graph.symbols)
        if (symbol.space == SymbolSpace::kKvCache) cache.resize(cells(symbol));
    reset(0);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// Same contents every time, except for scratch, which holds `junk`.
  void reset(uint64_t junk) {
    uint64_t next = 1;
    for (auto& [name, cells] : external_)
      for (uint64_t& cell : cells) cell = mix_bits(next++);
    for (std::vector<uint64_t>& cache : caches_)
      for (uint64_t& cell : cache) cell = mix_bits(next++);
    for (uint64_t& cell : arena_) cell = mix_bits(~junk);
  }
  /// An environment for lower(); the arena has `arena_bytes` (0: none).
  BindEnvironment environment(Backend& backend, int64_t arena_bytes) {
    BindEnvironment env{.rows = bucket_, .backend = &backend};
    for (const Symbol& symbol : graph_.symbols)
      if (symbol.space == SymbolSpace::kExternal)
        env.external[symbol.name] = view(external_[symbol.name], symbol);
    for (std::vector<uint64_t>& cache : caches_) env.kv.push_back({.k = cache.data()});
    env.step.header = &header_;
    env.step.token_ids = {nullptr, DType::kI32, {bucket_}};
    arena_.resize(static_cast<size_t>((arena_bytes + 7) / 8));
    if (arena_bytes > 0) env.arena = {arena_.data(), DType::kU8, {arena_bytes}};
    return env;
  }
  StepHeader& header() { return header_; }
  /// What a step leaves behind: external symbols and caches.
  [[nodiscard]] std::vector<uint64_t> results() const {
    std::vector<uint64_t> all;
    for (const auto& [name, cells] : external_) all.insert(all.end(), cells.begin(), cells.end());
    for (const std::vector<uint64_t>& cache : caches_)
      all.insert(all.end(), cache.begin(), cache.end());
    return all;
  }

 private:
  [[nodiscard]] size_t cells(const Symbol& symbol) const {
    return static_cast<size_t>(bucket_ * symbol.rows_per_token * symbol.cols);
  }
  [[nodiscard]] TensorView view(std::vector<uint64_t>& cells, const Symbol& symbol) const {
    return {cells.data(), DType::kI64, {bucket_ * symbol.rows_per_token, symbol.cols}};
  }

  const OpGraph& graph_;
  const int64_t bucket_;
  StepHeader header_;
  std::map<std::string, std::vector<uint64_t>> external_;
  std::vector<std::vector<uint64_t>> caches_;  // by layer
  std::vector<uint64_t> arena_;
};

/// The step that the graph means: every op whole, one after the other, each scratch symbol in
/// memory of its own. Knows nothing of specs and plans.
class SequentialWalk final : public Binder {
 public:
  SequentialWalk(const OpGraph& graph, BindEnvironment environment)
      : graph_(graph), environment_(std::move(environment)), scratch_(graph.symbols.size()) {}

  void run() {
    for (const Section section : {Section::kPrologue, Section::kLayer, Section::kEpilogue}) {
      const bool repeats = section == Section::kLayer;
      for (layer_ = repeats ? 0 : -1; layer_ < (repeats ? graph_.num_layers : 0); ++layer_)
        for (const OpNode& node : graph_.nodes)
          if (node.section == section) call_of(node.bind(*this)).run();
    }
  }

 private:
  [[nodiscard]] int layer() const override { return layer_; }
  [[nodiscard]] RowRange rows() const override { return {0, environment_.rows}; }
  [[nodiscard]] TensorView view(SymbolId id) const override { return view_all(id); }
  [[nodiscard]] TensorView view_all(SymbolId id) const override {
    const Symbol& symbol = graph_.symbols[static_cast<size_t>(id)];
    if (symbol.space == SymbolSpace::kExternal) return environment_.external.at(symbol.name);
    std::vector<uint64_t>& cells = scratch_[static_cast<size_t>(id)];
    const int64_t rows = environment_.rows * symbol.rows_per_token;
    cells.resize(static_cast<size_t>(rows * symbol.cols));
    return {cells.data(), DType::kI64, {rows, symbol.cols}};
  }
  [[nodiscard]] PackedWeight weight(std::string_view) const override { return {}; }
  [[nodiscard]] KvCacheView kv_cache() const override {
    return environment_.kv[static_cast<size_t>(layer_)];
  }
  [[nodiscard]] const StepInputs& step() const override { return environment_.step; }

  const OpGraph& graph_;
  BindEnvironment environment_;
  mutable std::vector<std::vector<uint64_t>> scratch_;  // by symbol; filled when first viewed
  int layer_ = -1;
};

}  // namespace nanoflow::toy
