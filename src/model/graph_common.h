// ForwardGraph: the pieces that model families build their layers from. Each piece adds the ops of
// one part of a layer, over symbols that exist once per graph. Internal to model/.
#pragma once

#include <string>

#include "model/config.h"
#include "ops/graph.h"

namespace nanoflow {

/// Weight `name` as a vector or matrix view, for norms, biases and tables.
TensorView weight_view(const Binder& binder, std::string_view name);

/// A forward graph under construction. The pieces must be added in a layer's order: attention, then
/// one FFN.
class ForwardGraph {
 public:
  /// Adds the symbols and the prologue ("embed").
  ForwardGraph(const ModelConfig& config, int tp_size, DType act);

  /// attn_norm, qkv, rope_append, attn_decode, attn_prefill, o, [all_reduce_o].
  void add_attention();
  /// ffn_norm, gate_up, silu_mul, down, [all_reduce_down].
  void add_dense_ffn();
  /// ffn_norm, router, moe_route, moe_sort, experts_gate_up, experts_silu_mul, experts_down,
  /// moe_combine, [all_reduce_down].
  void add_moe_ffn();

  /// The finished graph.
  [[nodiscard]] OpGraph take();

 private:
  /// out = AddRmsNorm(residual, delta); `first`: layer 0 starts the residual stream.
  void add_norm(const std::string& op, const std::string& weight, SymbolId out, bool first);
  /// out = in @ weight^T, plus bias `weight`_bias if asked.
  void add_gemm(const std::string& op, SymbolId in, SymbolId out, bool bias);
  void add_attention_op(const std::string& op, Phase phase, Rows kv_rows);
  void add_rope_append();
  void add_silu_mul(const std::string& op, SymbolId in, SymbolId out);
  void add_router();
  void add_experts_gemm(const std::string& op, SymbolId in, SymbolId out, bool gather);
  void add_all_reduce(const std::string& op);

  ModelConfig config_;
  int tp_size_;
  DType act_;
  OpGraph graph_;
  SymbolId residual_, delta_, x_, qkv_, attn_, kv_, ffn_x_;
  // Of the sparse FFN.
  SymbolId expert_weights_ = -1, order_ = -1, offsets_ = -1;
};

// One builder per family; families.cc lists them.
void build_llama_layer(ForwardGraph& graph);
void build_mistral_layer(ForwardGraph& graph);
void build_qwen2_layer(ForwardGraph& graph);
void build_qwen3_layer(ForwardGraph& graph);
void build_mixtral_layer(ForwardGraph& graph);

}  // namespace nanoflow
