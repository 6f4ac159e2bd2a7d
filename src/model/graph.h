// A model's step as two OpGraphs: forward (prologue, layers), and sample (rows that sample, head).
// The one table of supported architectures is in graph.cc.
//
// External symbols that both share, per rank: "residual" and "delta", [rows, hidden_size] act.
// After forward, the last layer's output is residual + delta, not yet added.
// Results of sample, one row per sampled row: "sampled_ids" [1] int32, "sampled_logprobs" [1]
// float32, "sampled_ranks" [1] int32, "top_ids" and "top_logprobs" [kMaxTopLogprobs].
#pragma once

#include <string>
#include <vector>

#include "model/config.h"
#include "ops/graph.h"

namespace nanoflow {

/// Forward pass over the dense batch's rows. Ops of one layer, in order: attn_norm, qkv,
/// rope_append, attn_decode, attn_prefill, o, [all_reduce_o], ffn_norm, then gate_up, silu_mul,
/// down, [all_reduce_down], or router, moe_route, moe_sort, experts_gate_up, experts_silu_mul,
/// experts_down, moe_combine, [all_reduce_down]. The collectives exist when tp_size > 1.
/// `act` is the dtype of activations and weights. Throws ConfigError for an unsupported
/// architecture or tp_size.
OpGraph build_forward_graph(const ModelConfig& config, int tp_size, DType act);

/// Final norm, head and sampling of sampled rows; rows of this graph are sampled rows. Reads all
/// rows of "residual" and "delta". Ops, all in the prologue: gather_residual, gather_delta,
/// final_norm, lm_head, [all_gather_logits], sample.
OpGraph build_sample_graph(const ModelConfig& config, int tp_size, DType act);

/// Names accepted in config.json's "architectures", in alphabetical order.
std::vector<std::string> supported_architectures();

}  // namespace nanoflow
