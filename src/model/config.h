// ModelConfig: a checkpoint's numbers under the names that config.json publishes them with.
// Derived numbers are member functions, never stored. What the operator decides (tensor
// parallelism, lengths, data types of the run) is an argument, not a member.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace nanoflow {

/// How rotary frequencies are stretched beyond the length of pre-training.
struct RopeScaling {
  enum class Type : uint8_t {
    kDefault,  ///< not at all
    kLinear,   ///< all frequencies divided by `factor` (Chen et al. 2023)
    kLlama3,   ///< low frequencies divided, a smooth band between (Llama 3.1's release)
  };
  Type type = Type::kDefault;
  double factor = 1;
  double low_freq_factor = 1;   ///< kLlama3 only, as are the next two
  double high_freq_factor = 4;  ///< greater than low_freq_factor
  int64_t original_max_position_embeddings = 8192;
  bool operator==(const RopeScaling&) const = default;
};

/// generation_config.json: what the model's makers sample with; a request's own values win.
/// Absent values are unset, so that the server's defaults (OpenAI's) apply.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_new_tokens;
  bool operator==(const GenerationDefaults&) const = default;
};

/// Parameters of the whole model (not of one rank), by part.
struct ParameterCount {
  int64_t embedding = 0;  ///< token embedding (also the head when tied)
  int64_t attention = 0;  ///< qkv and o with biases, q and k norms
  int64_t ffn = 0;        ///< dense FFN, or all experts and the router
  int64_t norms = 0;
  int64_t lm_head = 0;  ///< 0 when tied
  int64_t active = 0;   ///< used by one token: everything but the experts it is not routed to
  [[nodiscard]] int64_t total() const { return embedding + attention + ffn + norms + lm_head; }
};

struct ModelConfig {
  std::string architecture;  ///< architectures[0]: "LlamaForCausalLM"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  ///< of one expert in a sparse model
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0;
  double rope_theta = 0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  ///< attention_bias of Llama and Qwen3; always there in Qwen2
  bool o_bias = false;    ///< attention_bias of Llama and Qwen3
  bool mlp_bias = false;
  bool qk_norm = false;            ///< RMS norm of each q and k head before the rotation (Qwen3)
  int64_t sliding_window = 0;      ///< tokens a sliding layer attends to, 0: no layer slides
  std::vector<bool> layer_slides;  ///< which layers slide; empty: all, if sliding_window > 0
  int64_t num_local_experts = 0;   ///< 0: dense
  int64_t num_experts_per_tok = 0;
  bool norm_topk_prob = true;         ///< chosen experts' probabilities are scaled to sum 1
  DType dtype = DType::kBF16;         ///< torch_dtype / dtype: what the checkpoint is stored in
  std::vector<int32_t> eos_token_id;  ///< generation_config.json's if it has one
  int32_t bos_token_id = -1;          ///< -1: none
  GenerationDefaults generation;

  [[nodiscard]] bool is_moe() const { return num_local_experts > 0; }
  /// Sliding window of `layer` in tokens, 0 for full attention.
  [[nodiscard]] int64_t window(int layer) const;

  // Numbers of one rank. Where there are fewer KV heads than ranks, each is held by several ranks.
  [[nodiscard]] int64_t q_heads(int tp_size) const { return num_attention_heads / tp_size; }
  [[nodiscard]] int64_t kv_heads(int tp_size) const {
    return num_key_value_heads >= tp_size ? num_key_value_heads / tp_size : 1;
  }
  /// Columns of attention's output, the input features of `o`.
  [[nodiscard]] int64_t q_rows(int tp_size) const { return q_heads(tp_size) * head_dim; }
  [[nodiscard]] int64_t kv_rows(int tp_size) const { return kv_heads(tp_size) * head_dim; }
  /// Output features of `qkv`: q heads, k heads, v heads.
  [[nodiscard]] int64_t qkv_rows(int tp_size) const {
    return q_rows(tp_size) + 2 * kv_rows(tp_size);
  }
  [[nodiscard]] int64_t ffn_rows(int tp_size) const { return intermediate_size / tp_size; }
  /// Rows of `lm_head`: vocab_size / tp_size rounded up; the last ranks' surplus rows are zero.
  [[nodiscard]] int64_t vocab_rows(int tp_size) const {
    return (vocab_size + tp_size - 1) / tp_size;
  }

  [[nodiscard]] ParameterCount parameters() const;
  /// Device bytes of one rank's weights in `dtype`, as WeightStore holds them, without rope tables.
  [[nodiscard]] int64_t weight_bytes(DType dtype, int tp_size) const;
  /// Bytes of K and V of one token over all layers of one rank.
  [[nodiscard]] int64_t kv_bytes_per_token(DType kv_dtype, int tp_size) const;

  /// Checks every number and combination. Throws ConfigError naming the field.
  void validate() const;
  /// Checks that this model can be cut into `tp_size` ranks. Throws ConfigError naming "tp_size".
  void validate_tp(int tp_size) const;

  bool operator==(const ModelConfig&) const = default;
};

/// Reads a Hugging Face folder (config.json as transformers 4 and 5 write it, and, when there,
/// generation_config.json) or a .gguf file; the result is validated. Throws IoError, FormatError
/// (no JSON), or ConfigError naming the field, also for an architecture or feature that is not
/// supported.
ModelConfig read_model_config(const std::filesystem::path& model);

/// The same from the text of the two files; `generation_config_json` may be empty.
ModelConfig parse_model_config(const std::string& config_json,
                               const std::string& generation_config_json);

/// Inverse frequency of each of the head_dim / 2 rotated pairs, scaled as the config says
/// (Su et al. 2021, section 3.2.2; Llama 3.1's reference code for kLlama3).
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

}  // namespace nanoflow
