#include "model/config_gguf.h"

#include <limits>

#include <fmt/format.h>

#include "base/error.h"
#include "model/families.h"

namespace nanoflow {
namespace {

/// Look-ups of "<architecture>.<key>".
class Metadata {
 public:
  Metadata(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  [[nodiscard]] std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  [[nodiscard]] std::optional<int64_t> integer(std::string_view name) const {
    return file_.find_int(key(name));
  }
  [[nodiscard]] std::optional<double> number(std::string_view name) const {
    return file_.find_double(key(name));
  }
  [[nodiscard]] std::optional<std::string_view> string(std::string_view name) const {
    return file_.find_string(key(name));
  }
  [[nodiscard]] int64_t required(std::string_view name) const {
    const std::optional<int64_t> value = integer(name);
    if (!value) throw missing(name);
    return *value;
  }
  [[nodiscard]] ConfigError missing(std::string_view name) const {
    return {file_.name() + " " + key(name), "is missing"};
  }
  [[nodiscard]] ConfigError unsupported(std::string_view name, std::string_view value,
                                        std::string_view supported) const {
    return {file_.name() + " " + key(name),
            fmt::format("{} is not supported; {} is", value, supported)};
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

std::string_view read_family(const GgufFile& file, const std::string& architecture) {
  const std::optional<int64_t> experts = file.find_int(architecture + ".expert_count");
  if (architecture == "llama" && experts.value_or(0) > 0) return "MixtralForCausalLM";
  std::string names;
  for (const ModelFamily& family : model_families()) {
    if (family.gguf_architecture.empty()) continue;
    if (family.gguf_architecture == architecture) return family.architecture;
    names += (names.empty() ? "" : ", ") + std::string(family.gguf_architecture);
  }
  throw ConfigError(file.name() + " general.architecture",
                    fmt::format("'{}' is not supported; these are: {}", architecture, names));
}

void read_heads(const Metadata& meta, ModelConfig& config) {
  config.num_attention_heads = meta.required("attention.head_count");
  config.num_key_value_heads =
      meta.integer("attention.head_count_kv").value_or(config.num_attention_heads);
  const std::optional<int64_t> key_length = meta.integer("attention.key_length");
  if (key_length) {
    config.head_dim = *key_length;
  } else {
    if (config.num_attention_heads < 1 || config.hidden_size % config.num_attention_heads != 0)
      throw ConfigError(meta.key("attention.head_count"),
                        fmt::format("{} does not divide embedding_length {}",
                                    config.num_attention_heads, config.hidden_size));
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  const int64_t value_length = meta.integer("attention.value_length").value_or(config.head_dim);
  if (value_length != config.head_dim)
    throw meta.unsupported("attention.value_length", std::to_string(value_length),
                           fmt::format("the key length, {},", config.head_dim));
  const int64_t rotated = meta.integer("rope.dimension_count").value_or(config.head_dim);
  if (rotated != config.head_dim)
    throw meta.unsupported("rope.dimension_count", std::to_string(rotated),
                           fmt::format("the head's, {},", config.head_dim));
}

/// Llama 3.1's scaling is not in the metadata; it is the tensor rope_freqs.weight, see weights.cc.
void read_rope(const Metadata& meta, ModelConfig& config) {
  config.rope_theta = meta.number("rope.freq_base").value_or(10000.0);
  const std::string type(meta.string("rope.scaling.type").value_or("none"));
  const double legacy_factor = meta.number("rope.scale_linear").value_or(1.0);
  if (type == "linear" || legacy_factor != 1.0) {
    config.rope_scaling.type = RopeScaling::Type::kLinear;
    config.rope_scaling.factor = meta.number("rope.scaling.factor").value_or(legacy_factor);
  } else if (type != "none") {
    throw meta.unsupported("rope.scaling.type", "'" + type + "'", "'none' or 'linear'");
  }
}

void read_tensors(const GgufFile& file, ModelConfig& config) {
  const auto has = [&](const char* name) { return file.find_tensor(name) != nullptr; };
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    throw FormatError(file.name(), "has no matrix token_embd.weight");
  config.vocab_size = embedding->shape[0];
  config.tie_word_embeddings = !has("output.weight");
  config.qkv_bias = has("blk.0.attn_q.bias");
  config.o_bias = has("blk.0.attn_output.bias");
  config.mlp_bias = has("blk.0.ffn_up.bias");
}

void read_special_tokens(const GgufFile& file, ModelConfig& config) {
  const auto token = [&](const char* key) -> int32_t {
    const std::optional<int64_t> id = file.find_int(key);
    if (!id) return -1;
    if (*id < 0 || *id > std::numeric_limits<int32_t>::max())
      throw ConfigError(file.name() + " " + key, fmt::format("{} is no token id", *id));
    return static_cast<int32_t>(*id);
  };
  config.bos_token_id = token("tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    const int32_t id = token(key);
    const bool known = !config.eos_token_id.empty() && config.eos_token_id.front() == id;
    if (id >= 0 && !known) config.eos_token_id.push_back(id);
  }
}

}  // namespace

ModelConfig model_config_from_gguf(const GgufFile& file) {
  const std::optional<std::string_view> name = file.find_string("general.architecture");
  if (!name) throw ConfigError(file.name() + " general.architecture", "is missing");
  const std::string architecture(*name);
  ModelConfig config;
  config.architecture = read_family(file, architecture);
  const FamilyDefaults& defaults = find_family(config.architecture).defaults;
  const Metadata meta(file, architecture);
  config.hidden_size = meta.required("embedding_length");
  config.intermediate_size = meta.required("feed_forward_length");
  config.num_hidden_layers = meta.required("block_count");
  config.max_position_embeddings = meta.required("context_length");
  const std::optional<double> eps = meta.number("attention.layer_norm_rms_epsilon");
  if (!eps) throw meta.missing("attention.layer_norm_rms_epsilon");
  // Stored as float32; the shortest decimal that it came from is what config.json would say.
  config.rms_norm_eps = std::stod(fmt::format("{}", static_cast<float>(*eps)));
  read_heads(meta, config);
  read_rope(meta, config);
  config.qk_norm = defaults.qk_norm;
  if (defaults.sparse) {
    config.num_local_experts = meta.required("expert_count");
    config.num_experts_per_tok = meta.required("expert_used_count");
  }
  const int64_t window = meta.integer("attention.sliding_window").value_or(0);
  if (window != 0 && defaults.slides_by_layer)
    throw meta.unsupported("attention.sliding_window", std::to_string(window), "0");
  config.sliding_window = window;
  read_tensors(file, config);
  read_special_tokens(file, config);
  try {
    config.validate();
  } catch (const ConfigError& error) {
    throw ConfigError(file.name(), error.what());
  }
  return config;
}

ModelConfig read_gguf_config(const std::filesystem::path& file) {
  return model_config_from_gguf(GgufFile(file));
}

}  // namespace nanoflow
