#include "model/graph.h"

#include "model/families.h"
#include "model/graph_common.h"

namespace nanoflow {

OpGraph build_forward_graph(const ModelConfig& config, int tp_size, DType act) {
  config.validate_tp(tp_size);
  const ModelFamily& family = find_family(config.architecture);
  ForwardGraph graph(config, tp_size, act);
  family.build_layer(graph);
  return graph.take();
}

namespace {

/// Symbols of the sample graph; results are external, the rest scratch.
struct SampleSymbols {
  SymbolId residual, delta;  // the forward pass's, all rows
  SymbolId row_residual, row_delta, x, logits;
  SymbolId ids, logprobs, ranks, top_ids, top_logprobs;
};

SampleSymbols add_sample_symbols(OpGraph& graph, const ModelConfig& config, DType act) {
  constexpr SymbolSpace kExternal = SymbolSpace::kExternal;
  const int64_t h = config.hidden_size;
  SampleSymbols s{};
  s.residual = graph.add_symbol({"residual", h, act, 1, kExternal});
  s.delta = graph.add_symbol({"delta", h, act, 1, kExternal});
  s.row_residual = graph.add_symbol({"sample_residual", h, act});
  s.row_delta = graph.add_symbol({"sample_delta", h, act});
  s.x = graph.add_symbol({"sample_x", h, act});
  s.ids = graph.add_symbol({"sampled_ids", 1, DType::kI32, 1, kExternal});
  s.logprobs = graph.add_symbol({"sampled_logprobs", 1, DType::kF32, 1, kExternal});
  s.ranks = graph.add_symbol({"sampled_ranks", 1, DType::kI32, 1, kExternal});
  s.top_ids = graph.add_symbol({"top_ids", kMaxTopLogprobs, DType::kI32, 1, kExternal});
  s.top_logprobs = graph.add_symbol({"top_logprobs", kMaxTopLogprobs, DType::kF32, 1, kExternal});
  return s;
}

void add_gather(OpGraph& graph, const std::string& op, SymbolId from, SymbolId to) {
  graph.add({.name = op,
             .section = Section::kPrologue,
             .operands = {{from, Access::kRead, Rows::kAll, Phase::kAny},
                          {to, Access::kWrite, Rows::kSame, Phase::kAny}},
             .bound = Resource::kMemory,
             .bind = [=](const Binder& b) -> OpArgs {
               return GatherRowsArgs{
                   .out = b.view(to),
                   .x = b.view_all(from),
                   .index = b.step().sample_rows.slice_rows(b.rows().begin, b.rows().end)};
             }});
}

void add_final_norm(OpGraph& graph, const SampleSymbols& s, double eps) {
  graph.add({.name = "final_norm",
             .section = Section::kPrologue,
             .operands = {{s.row_residual, Access::kReadWrite, Rows::kSame, Phase::kAny},
                          {s.row_delta, Access::kRead, Rows::kSame, Phase::kAny},
                          {s.x, Access::kWrite, Rows::kSame, Phase::kAny}},
             .bound = Resource::kMemory,
             .bind = [=](const Binder& b) -> OpArgs {
               return AddRmsNormArgs{.out = b.view(s.x),
                                     .residual = b.view(s.row_residual),
                                     .delta = b.view(s.row_delta),
                                     .weight = weight_view(b, "final_norm"),
                                     .eps = static_cast<float>(eps)};
             }});
}

/// lm_head, and with several ranks the gathering of their vocabulary rows. Returns the symbol of
/// all logits, whose columns may end in padding.
SymbolId add_head(OpGraph& graph, const SampleSymbols& s, const ModelConfig& config, int tp_size) {
  const int64_t shard_rows = config.vocab_rows(tp_size);
  const SymbolId shard = graph.add_symbol({"logits", shard_rows, DType::kF32});
  graph.add({.name = "lm_head",
             .section = Section::kPrologue,
             .operands = {{s.x, Access::kRead, Rows::kSame, Phase::kAny},
                          {shard, Access::kWrite, Rows::kSame, Phase::kAny}},
             .bound = Resource::kCompute,
             .bind = [=](const Binder& b) -> OpArgs {
               return GemmArgs{
                   .out = b.view(shard), .a = b.view(s.x), .weight = b.weight("lm_head")};
             }});
  if (tp_size == 1) return shard;
  const SymbolId all = graph.add_symbol({"all_logits", shard_rows * tp_size, DType::kF32});
  graph.add({.name = "all_gather_logits",
             .section = Section::kPrologue,
             .operands = {{shard, Access::kRead, Rows::kSame, Phase::kAny},
                          {all, Access::kWrite, Rows::kSame, Phase::kAny}},
             .bound = Resource::kNetwork,
             .bind = [=](const Binder& b) -> OpArgs {
               return AllGatherArgs{.out = b.view(all), .x = b.view(shard)};
             }});
  return all;
}

/// A [N, 1] result as the vector that SampleArgs wants.
TensorView column(const Binder& b, SymbolId symbol) {
  const TensorView view = b.view(symbol);
  return {view.data(), view.dtype(), {view.rows()}, view.device()};
}

void add_sample(OpGraph& graph, const SampleSymbols& s, SymbolId logits, int64_t vocab_size) {
  const auto writes = [](SymbolId symbol) {
    return Operand{symbol, Access::kWrite, Rows::kSame, Phase::kAny};
  };
  graph.add({.name = "sample",
             .section = Section::kPrologue,
             .operands = {{logits, Access::kReadWrite, Rows::kSame, Phase::kAny},
                          writes(s.ids),
                          writes(s.logprobs),
                          writes(s.ranks),
                          writes(s.top_ids),
                          writes(s.top_logprobs)},
             .bound = Resource::kMemory,
             .bind = [=](const Binder& b) -> OpArgs {
               return SampleArgs{.ids = column(b, s.ids),
                                 .logprobs = column(b, s.logprobs),
                                 .ranks = column(b, s.ranks),
                                 .top_ids = b.view(s.top_ids),
                                 .top_logprobs = b.view(s.top_logprobs),
                                 .logits = b.view(logits).slice_cols(0, vocab_size),
                                 .step = b.step(),
                                 .rows = b.rows()};
             }});
}

}  // namespace

OpGraph build_sample_graph(const ModelConfig& config, int tp_size, DType act) {
  config.validate_tp(tp_size);
  OpGraph graph;
  graph.name = config.architecture + " sample";
  const SampleSymbols symbols = add_sample_symbols(graph, config, act);
  add_gather(graph, "gather_residual", symbols.residual, symbols.row_residual);
  add_gather(graph, "gather_delta", symbols.delta, symbols.row_delta);
  add_final_norm(graph, symbols, config.rms_norm_eps);
  const SymbolId logits = add_head(graph, symbols, config, tp_size);
  add_sample(graph, symbols, logits, config.vocab_size);
  graph.validate();
  return graph;
}

}  // namespace nanoflow
