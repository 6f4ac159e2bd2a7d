#include "model/families.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "model/graph.h"
#include "model/graph_common.h"

namespace nanoflow {
namespace {

// Defaults are those of transformers' configuration_<family>.py.
constexpr ModelFamily kFamilies[] = {
    {.architecture = "LlamaForCausalLM",
     .gguf_architecture = "llama",
     .build_layer = build_llama_layer,
     .defaults = {.reads_attention_bias = true, .reads_mlp_bias = true}},
    {.architecture = "MistralForCausalLM",
     .gguf_architecture = "",  // GGUF files call it llama
     .build_layer = build_mistral_layer,
     .defaults = {.max_position_embeddings = 131072,
                  .num_key_value_heads = 8,
                  .sliding_window = 4096,
                  .may_slide = true}},
    {.architecture = "MixtralForCausalLM",
     .gguf_architecture = "",  // GGUF files call it llama, with experts
     .build_layer = build_mixtral_layer,
     .defaults = {.rope_theta = 1e6,
                  .rms_norm_eps = 1e-5,
                  .max_position_embeddings = 131072,
                  .num_key_value_heads = 8,
                  .may_slide = true,
                  .sparse = true}},
    {.architecture = "Qwen2ForCausalLM",
     .gguf_architecture = "qwen2",
     .build_layer = build_qwen2_layer,
     .defaults = {.max_position_embeddings = 32768,
                  .num_key_value_heads = 32,
                  .sliding_window = 4096,
                  .max_window_layers = 28,
                  .may_slide = true,
                  .slides_by_layer = true,
                  .qkv_bias = true}},
    {.architecture = "Qwen3ForCausalLM",
     .gguf_architecture = "qwen3",
     .build_layer = build_qwen3_layer,
     .defaults = {.max_position_embeddings = 32768,
                  .num_key_value_heads = 32,
                  .head_dim = 128,
                  .sliding_window = 4096,
                  .max_window_layers = 28,
                  .may_slide = true,
                  .slides_by_layer = true,
                  .reads_attention_bias = true,
                  .qk_norm = true}},
};

}  // namespace

std::span<const ModelFamily> model_families() {
  return kFamilies;
}

std::vector<std::string> supported_architectures() {
  std::vector<std::string> names;
  for (const ModelFamily& family : kFamilies) names.emplace_back(family.architecture);
  return names;
}

const ModelFamily& find_family(std::string_view architecture) {
  for (const ModelFamily& family : kFamilies)
    if (family.architecture == architecture) return family;
  throw ConfigError("architectures",
                    fmt::format("'{}' is not supported; these are: {}", architecture,
                                fmt::join(supported_architectures(), ", ")));
}

}  // namespace nanoflow
