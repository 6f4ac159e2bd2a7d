// Dense decoders in Llama's form: pre-norm attention, then a gated FFN. What differs between the
// families is in their ModelConfig, since the shared pieces read it: biases, q and k norms,
// windows, rotary scaling.
#include "model/graph_common.h"

namespace nanoflow {

/// Llama 2, 3, 3.1, 3.2 (Touvron et al. 2023; Grattafiori et al. 2024), and what shares its class.
void build_llama_layer(ForwardGraph& graph) {
  graph.add_attention();
  graph.add_dense_ffn();
}

/// Mistral 7B and successors (Jiang et al. 2023): Llama with an optional window in every layer.
void build_mistral_layer(ForwardGraph& graph) {
  graph.add_attention();
  graph.add_dense_ffn();
}

/// Qwen2 and 2.5 (Yang et al. 2024): Llama with biases on q, k and v, and windows by layer.
void build_qwen2_layer(ForwardGraph& graph) {
  graph.add_attention();
  graph.add_dense_ffn();
}

/// Qwen3 (Yang et al. 2025): Llama with an RMS norm of each q and k head before the rotation.
void build_qwen3_layer(ForwardGraph& graph) {
  graph.add_attention();
  graph.add_dense_ffn();
}

}  // namespace nanoflow
