// Mixtral: Mistral's attention with a sparse mixture of experts as the FFN.
#include "model/graph_common.h"

namespace nanoflow {

/// Mixtral 8x7B and 8x22B (Jiang et al. 2024).
void build_mixtral_layer(ForwardGraph& graph) {
  graph.add_attention();
  graph.add_moe_ffn();
}

}  // namespace nanoflow
