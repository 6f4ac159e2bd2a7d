#include "model/graph_common.h"

#include <cmath>

namespace nanoflow {
namespace {

// Ops that exchange rows sorted by expert must see the same rows.
constexpr int kMoeAlignGroup = 0;

Operand reads(SymbolId symbol, Rows rows = Rows::kSame, Phase phase = Phase::kAny) {
  return {symbol, Access::kRead, rows, phase};
}
Operand writes(SymbolId symbol, Phase phase = Phase::kAny) {
  return {symbol, Access::kWrite, Rows::kSame, phase};
}
Operand updates(SymbolId symbol) {
  return {symbol, Access::kReadWrite, Rows::kSame, Phase::kAny};
}

/// A [rows, 1] view, or the first row of a [rows, n] view, as a vector.
TensorView as_vector(const TensorView& view, int64_t size) {
  NANO_CHECK(view.is_contiguous() && view.rows() * view.cols() >= size, "{} as a vector of {}",
             view.to_string(), size);
  return {view.data(), view.dtype(), {size}, view.device()};
}

/// The nano-op's rows of one of the step's whole-batch arrays.
TensorView own_rows(const Binder& b, const TensorView& whole) {
  return whole.slice_rows(b.rows().begin, b.rows().end);
}

}  // namespace

TensorView weight_view(const Binder& binder, std::string_view name) {
  return binder.weight(name).data;
}

ForwardGraph::ForwardGraph(const ModelConfig& config, int tp_size, DType act)
    : config_(config), tp_size_(tp_size), act_(act) {
  const int64_t h = config.hidden_size;
  graph_.name = config.architecture + " forward";
  graph_.num_layers = static_cast<int>(config.num_hidden_layers);
  residual_ = graph_.add_symbol({"residual", h, act, 1, SymbolSpace::kExternal});
  delta_ = graph_.add_symbol({"delta", h, act, 1, SymbolSpace::kExternal});
  kv_ = graph_.add_symbol({"kv", 2 * config.kv_rows(tp_size), act, 1, SymbolSpace::kKvCache});
  x_ = graph_.add_symbol({"x", h, act});
  qkv_ = graph_.add_symbol({"qkv", config.qkv_rows(tp_size), act});
  attn_ = graph_.add_symbol({"attn", config.q_rows(tp_size), act});
  // A symbol of its own, so that the two halves of a layer never wait for each other's norm when
  // nano-batches are half a layer apart.
  ffn_x_ = graph_.add_symbol({"ffn_x", h, act});
  graph_.add({.name = "embed",
              .section = Section::kPrologue,
              .operands = {writes(delta_)},
              .bound = Resource::kMemory,
              .bind = [delta = delta_](const Binder& b) -> OpArgs {
                return EmbedArgs{.out = b.view(delta),
                                 .table = weight_view(b, "embed"),
                                 .token_ids = own_rows(b, b.step().token_ids),
                                 .last_token = b.step().last_token};
              }});
}

void ForwardGraph::add_norm(const std::string& op, const std::string& weight, SymbolId out,
                            bool first) {
  graph_.add({.name = op,
              .operands = {updates(residual_), reads(delta_), writes(out)},
              .bound = Resource::kMemory,
              .bind = [=, residual = residual_, delta = delta_,
                       eps = static_cast<float>(config_.rms_norm_eps)](const Binder& b) -> OpArgs {
                return AddRmsNormArgs{.out = b.view(out),
                                      .residual = b.view(residual),
                                      .delta = b.view(delta),
                                      .weight = weight_view(b, weight),
                                      .eps = eps,
                                      .replace = first && b.layer() == 0};
              }});
}

void ForwardGraph::add_gemm(const std::string& op, SymbolId in, SymbolId out, bool bias) {
  graph_.add({.name = op,
              .operands = {reads(in), writes(out)},
              .bound = Resource::kCompute,
              .bind = [=](const Binder& b) -> OpArgs {
                return GemmArgs{.out = b.view(out),
                                .a = b.view(in),
                                .weight = b.weight(op),
                                .bias = bias ? weight_view(b, op + "_bias") : TensorView()};
              }});
}

void ForwardGraph::add_rope_append() {
  graph_.add({.name = "rope_append",
              .operands = {updates(qkv_), writes(kv_)},
              .bound = Resource::kMemory,
              .bind = [qkv = qkv_, q_heads = config_.q_heads(tp_size_),
                       kv_heads = config_.kv_heads(tp_size_), head_dim = config_.head_dim,
                       qk_norm = config_.qk_norm,
                       eps = static_cast<float>(config_.rms_norm_eps)](const Binder& b) -> OpArgs {
                return RopeAppendArgs{.qkv = b.view(qkv),
                                      .num_q_heads = q_heads,
                                      .num_kv_heads = kv_heads,
                                      .head_dim = head_dim,
                                      .positions = own_rows(b, b.step().positions),
                                      .kv_slots = own_rows(b, b.step().kv_slots),
                                      .cos_sin = weight_view(b, "cos_sin"),
                                      .q_norm = qk_norm ? weight_view(b, "q_norm") : TensorView(),
                                      .k_norm = qk_norm ? weight_view(b, "k_norm") : TensorView(),
                                      .norm_eps = eps,
                                      .cache = b.kv_cache()};
              }});
}

void ForwardGraph::add_attention_op(const std::string& op, Phase phase, Rows kv_rows) {
  graph_.add({.name = op,
              .operands = {reads(qkv_, Rows::kSame, phase), reads(kv_, kv_rows, phase),
                           writes(attn_, phase)},
              .bound = phase == Phase::kDecode ? Resource::kMemory : Resource::kCompute,
              .bind = [=, qkv = qkv_, attn = attn_, config = config_,
                       tp_size = tp_size_](const Binder& b) -> OpArgs {
                return PagedAttentionArgs{.out = b.view(attn),
                                          .q = b.view(qkv).slice_cols(0, config.q_rows(tp_size)),
                                          .num_q_heads = config.q_heads(tp_size),
                                          .num_kv_heads = config.kv_heads(tp_size),
                                          .head_dim = config.head_dim,
                                          .cache = b.kv_cache(),
                                          .step = b.step(),
                                          .rows = b.rows(),
                                          .phase = phase,
                                          .scale = static_cast<float>(
                                              1 / std::sqrt(static_cast<double>(config.head_dim))),
                                          .window = config.window(b.layer())};
              }});
}

void ForwardGraph::add_all_reduce(const std::string& op) {
  if (tp_size_ == 1) return;
  graph_.add({.name = op,
              .operands = {updates(delta_)},
              .bound = Resource::kNetwork,
              .bind = [delta = delta_](const Binder& b) -> OpArgs {
                return AllReduceArgs{.x = b.view(delta)};
              }});
}

void ForwardGraph::add_attention() {
  add_norm("attn_norm", "attn_norm", x_, true);
  add_gemm("qkv", x_, qkv_, config_.qkv_bias);
  add_rope_append();
  // A decode row attends to its own sequence only, whose other K and V are of earlier steps; a
  // prefill row may attend to earlier rows of this step.
  add_attention_op("attn_decode", Phase::kDecode, Rows::kSame);
  add_attention_op("attn_prefill", Phase::kPrefill, Rows::kPrefix);
  add_gemm("o", attn_, delta_, config_.o_bias);
  add_all_reduce("all_reduce_o");
}

void ForwardGraph::add_silu_mul(const std::string& op, SymbolId in, SymbolId out) {
  graph_.add({.name = op,
              .operands = {reads(in), writes(out)},
              .bound = Resource::kMemory,
              .bind = [=](const Binder& b) -> OpArgs {
                return SiluMulArgs{.out = b.view(out), .gate_up = b.view(in)};
              }});
}

void ForwardGraph::add_dense_ffn() {
  const int64_t rows = config_.ffn_rows(tp_size_);
  const SymbolId gate_up = graph_.add_symbol({"gate_up", 2 * rows, act_});
  const SymbolId ffn = graph_.add_symbol({"ffn", rows, act_});
  add_norm("ffn_norm", "ffn_norm", ffn_x_, false);
  add_gemm("gate_up", ffn_x_, gate_up, config_.mlp_bias);
  add_silu_mul("silu_mul", gate_up, ffn);
  add_gemm("down", ffn, delta_, config_.mlp_bias);
  add_all_reduce("all_reduce_down");
}

void ForwardGraph::add_router() {
  const int64_t experts = config_.num_local_experts;
  const int64_t top_k = config_.num_experts_per_tok;
  const SymbolId logits = graph_.add_symbol({"router_logits", experts, DType::kF32});
  const SymbolId ids = graph_.add_symbol({"expert_ids", top_k, DType::kI32});
  expert_weights_ = graph_.add_symbol({"expert_weights", top_k, DType::kF32});
  order_ = graph_.add_symbol({"expert_order", 1, DType::kI32, top_k});
  // A nano-op needs one list of offsets however many rows it has; a list per row gives every cut a
  // place of its own, and the first of its rows is the one used.
  offsets_ = graph_.add_symbol({"expert_offsets", experts + 1, DType::kI32});
  add_gemm("router", ffn_x_, logits, false);
  graph_.add({.name = "moe_route",
              .operands = {reads(logits), writes(ids), writes(expert_weights_)},
              .bound = Resource::kMemory,
              .bind = [=, weights = expert_weights_,
                       renormalize = config_.norm_topk_prob](const Binder& b) -> OpArgs {
                return MoeRouteArgs{.expert_ids = b.view(ids),
                                    .expert_weights = b.view(weights),
                                    .logits = b.view(logits),
                                    .renormalize = renormalize};
              }});
  graph_.add({.name = "moe_sort",
              .operands = {reads(ids), writes(order_), writes(offsets_)},
              .bound = Resource::kMemory,
              .align_group = kMoeAlignGroup,
              .bind = [=, order = order_, offsets = offsets_](const Binder& b) -> OpArgs {
                return MoeSortArgs{.order = as_vector(b.view(order), b.rows().size() * top_k),
                                   .offsets = as_vector(b.view(offsets), experts + 1),
                                   .expert_ids = b.view(ids)};
              }});
}

void ForwardGraph::add_experts_gemm(const std::string& op, SymbolId in, SymbolId out, bool gather) {
  graph_.add({.name = op,
              .operands = {reads(in), reads(order_), reads(offsets_), writes(out)},
              .bound = Resource::kCompute,
              .align_group = kMoeAlignGroup,
              .bind = [=, order = order_, offsets = offsets_, experts = config_.num_local_experts,
                       top_k = config_.num_experts_per_tok](const Binder& b) -> OpArgs {
                return GroupedGemmArgs{.out = b.view(out),
                                       .a = b.view(in),
                                       .weight = b.weight(op),
                                       .order = as_vector(b.view(order), b.rows().size() * top_k),
                                       .offsets = as_vector(b.view(offsets), experts + 1),
                                       .experts_per_token = top_k,
                                       .gather = gather};
              }});
}

void ForwardGraph::add_moe_ffn() {
  const int64_t rows = config_.ffn_rows(tp_size_);
  const int64_t top_k = config_.num_experts_per_tok;
  const SymbolId gate_up = graph_.add_symbol({"experts_gate_up", 2 * rows, act_, top_k});
  const SymbolId ffn = graph_.add_symbol({"experts_ffn", rows, act_, top_k});
  const SymbolId down = graph_.add_symbol({"experts_down", config_.hidden_size, act_, top_k});
  add_norm("ffn_norm", "ffn_norm", ffn_x_, false);
  add_router();
  add_experts_gemm("experts_gate_up", ffn_x_, gate_up, true);
  add_silu_mul("experts_silu_mul", gate_up, ffn);
  graph_.nodes.back().align_group = kMoeAlignGroup;
  add_experts_gemm("experts_down", ffn, down, false);
  graph_.add({.name = "moe_combine",
              .operands = {reads(down), reads(order_), reads(expert_weights_), writes(delta_)},
              .bound = Resource::kMemory,
              .align_group = kMoeAlignGroup,
              .bind = [=, order = order_, weights = expert_weights_,
                       delta = delta_](const Binder& b) -> OpArgs {
                return MoeCombineArgs{.out = b.view(delta),
                                      .x = b.view(down),
                                      .order = as_vector(b.view(order), b.rows().size() * top_k),
                                      .expert_weights = b.view(weights)};
              }});
  add_all_reduce("all_reduce_down");
}

OpGraph ForwardGraph::take() {
  graph_.validate();
  return std::move(graph_);
}

}  // namespace nanoflow
