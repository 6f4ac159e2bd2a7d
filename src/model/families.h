// The one table of supported architectures: how each reads config.json and builds its layer.
// Internal to model/.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "model/config.h"
#include "ops/graph.h"

namespace nanoflow {

class ForwardGraph;

/// What a missing config.json field means, as in transformers' configuration class of the family,
/// and which optional fields the family's modelling code looks at.
struct FamilyDefaults {
  double rope_theta = 10000;
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 2048;
  int64_t num_key_value_heads = 0;  ///< 0: num_attention_heads
  int64_t head_dim = 0;             ///< 0: hidden_size / num_attention_heads
  int64_t sliding_window = 0;
  int64_t max_window_layers = 0;  ///< first sliding layer, where slides_by_layer
  bool may_slide = false;         ///< reads sliding_window at all
  bool slides_by_layer = false;   ///< use_sliding_window, layer_types, max_window_layers
  bool reads_attention_bias = false;
  bool reads_mlp_bias = false;
  bool qkv_bias = false;  ///< always, without a field
  bool qk_norm = false;
  bool sparse = false;
};

struct ModelFamily {
  std::string_view architecture;       ///< of config.json
  std::string_view gguf_architecture;  ///< general.architecture of GGUF files
  void (*build_layer)(ForwardGraph& graph);
  FamilyDefaults defaults;
};

/// In alphabetical order of architecture.
std::span<const ModelFamily> model_families();

/// Throws ConfigError naming the architecture and the supported ones.
const ModelFamily& find_family(std::string_view architecture);

}  // namespace nanoflow
