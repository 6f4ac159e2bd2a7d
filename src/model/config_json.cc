// Reads config.json and generation_config.json of Hugging Face folders, as transformers 4
// (torch_dtype, rope_theta, rope_scaling) and 5 (dtype, rope_parameters) write them.
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "model/config.h"
#include "model/config_gguf.h"
#include "model/families.h"

namespace nanoflow {
namespace {

/// Typed access to an object's members; absent and null are the same unless it says otherwise.
class Fields {
 public:
  Fields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  [[nodiscard]] const Json* find(std::string_view key) const {
    const Json* value = object_.find(key);
    return value != nullptr && !value->is_null() ? value : nullptr;
  }
  [[nodiscard]] std::optional<int64_t> integer(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_int()) return value->as_int();
    if (value->is_double()) {  // "32.0" is an integer to Python as well
      const double d = value->as_double();
      if (std::abs(d) < 9e15 && d == std::floor(d)) return static_cast<int64_t>(d);
    }
    throw wrong_type(key, *value, "an integer");
  }
  /// transformers' class defaults apply to an absent field; null means something else.
  [[nodiscard]] int64_t integer_or(std::string_view key, int64_t absent, int64_t null) const {
    return integer(key).value_or(object_.find(key) == nullptr ? absent : null);
  }
  [[nodiscard]] std::optional<double> number(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) throw wrong_type(key, *value, "a number");
    return value->as_double();
  }
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_bool()) throw wrong_type(key, *value, "a boolean");
    return value->as_bool();
  }
  [[nodiscard]] std::optional<std::string> string(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) throw wrong_type(key, *value, "a string");
    return value->as_string();
  }
  [[nodiscard]] int64_t required_integer(std::string_view key) const {
    const std::optional<int64_t> value = integer(key);
    if (!value) throw ConfigError(name(key), "is missing");
    return *value;
  }
  [[nodiscard]] std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  [[nodiscard]] ConfigError wrong_type(std::string_view key, const Json& value,
                                       std::string_view expected) const {
    return {name(key), fmt::format("must be {}, is {} {}", expected, value.type_name(),
                                   value.dump().substr(0, 60))};
  }

 private:
  const Json& object_;
  std::string prefix_;
};

Json parse_object(const std::string& text, const std::string& file) {
  Result<Json> json = parse_json(text);
  if (!json) throw FormatError(file, json.error().message);
  if (!json->is_object())
    throw FormatError(file, fmt::format("is {}, not an object", json->type_name()));
  return std::move(*json);
}

std::vector<int32_t> read_token_ids(const Fields& fields, std::string_view key) {
  const Json* value = fields.find(key);
  if (value == nullptr) return {};
  std::vector<int32_t> ids;
  const auto append = [&](const Json& item) {
    constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
    if (!item.is_int() || item.as_int() < -1 || item.as_int() > kLimit)
      throw fields.wrong_type(key, item, "a token id");
    if (item.as_int() >= 0) ids.push_back(static_cast<int32_t>(item.as_int()));
  };
  if (!value->is_array()) {
    append(*value);
  } else {
    for (const Json& item : value->as_array()) append(item);
  }
  return ids;
}

DType read_dtype(const Fields& fields) {
  const bool v5 = fields.find("dtype") != nullptr;
  const std::string_view key = v5 ? "dtype" : "torch_dtype";
  std::string name = fields.string(key).value_or("bfloat16");
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16" || name == "half") return DType::kF16;
  if (name == "float32" || name == "float") return DType::kF32;
  throw ConfigError(fields.name(key), fmt::format("'{}' is not supported; bfloat16, float16 and "
                                                  "float32 are",
                                                  name));
}

/// transformers 5 puts everything in rope_parameters; 4 has rope_theta beside rope_scaling.
void read_rope(const Fields& fields, const FamilyDefaults& defaults, ModelConfig& config) {
  config.rope_theta = fields.number("rope_theta").value_or(defaults.rope_theta);
  const std::string_view key =
      fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const Json* object = fields.find(key);
  if (object == nullptr) return;
  if (!object->is_object()) throw fields.wrong_type(key, *object, "an object");
  const Fields rope(*object, fields.name(key) + ".");
  config.rope_theta = rope.number("rope_theta").value_or(config.rope_theta);
  const double partial = rope.number("partial_rotary_factor").value_or(1.0);
  if (partial != 1.0)
    throw ConfigError(rope.name("partial_rotary_factor"),
                      fmt::format("{} is not supported; 1 is", partial));
  const std::string_view type_key = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string type = rope.string(type_key).value_or("default");
  RopeScaling& scaling = config.rope_scaling;
  if (type == "default") return;
  if (type != "linear" && type != "llama3")
    throw ConfigError(rope.name(type_key),
                      fmt::format("'{}' is not supported; default, linear and llama3 are", type));
  const auto required = [&](std::string_view name) {
    const std::optional<double> value = rope.number(name);
    if (!value) throw ConfigError(rope.name(name), "is missing");
    return *value;
  };
  scaling.factor = required("factor");
  scaling.type = RopeScaling::Type::kLinear;
  if (type == "linear") return;
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.low_freq_factor = required("low_freq_factor");
  scaling.high_freq_factor = required("high_freq_factor");
  scaling.original_max_position_embeddings =
      rope.required_integer("original_max_position_embeddings");
}

void read_sliding_window(const Fields& fields, const FamilyDefaults& defaults,
                         ModelConfig& config) {
  if (!defaults.may_slide) return;
  const int64_t window = fields.integer_or("sliding_window", defaults.sliding_window, 0);
  if (!defaults.slides_by_layer) {
    config.sliding_window = window;
    return;
  }
  if (!fields.boolean("use_sliding_window").value_or(false)) return;
  config.sliding_window = window;
  const size_t layers = static_cast<size_t>(std::max<int64_t>(config.num_hidden_layers, 0));
  const Json* types = fields.find("layer_types");
  if (types == nullptr) {
    const int64_t first = fields.integer("max_window_layers").value_or(defaults.max_window_layers);
    for (size_t i = 0; i < std::min<size_t>(layers, 65536); ++i)
      config.layer_slides.push_back(static_cast<int64_t>(i) >= first);
    return;
  }
  if (!types->is_array()) throw fields.wrong_type("layer_types", *types, "an array");
  for (const Json& type : types->as_array()) {
    const bool full = type == Json("full_attention");
    if (!full && type != Json("sliding_attention"))
      throw fields.wrong_type("layer_types", type, "\"full_attention\" or \"sliding_attention\"");
    config.layer_slides.push_back(!full);
  }
}

/// What changes the computation and is not implemented must stop the load, not be ignored.
void refuse_unsupported(const Fields& fields) {
  if (const Json* quantization = fields.find("quantization_config")) {
    const Json* method = quantization->find("quant_method");
    throw ConfigError(
        fields.name("quantization_config"),
        fmt::format("quantised checkpoints ({}) are not supported; use the unquantised model or a "
                    "GGUF file",
                    method != nullptr && method->is_string() ? method->as_string() : "unknown"));
  }
  const std::string act = fields.string("hidden_act").value_or("silu");
  if (act != "silu" && act != "swish")
    throw ConfigError(fields.name("hidden_act"),
                      fmt::format("'{}' is not supported; silu is", act));
  const double partial = fields.number("partial_rotary_factor").value_or(1.0);
  if (partial != 1.0)
    throw ConfigError(fields.name("partial_rotary_factor"),
                      fmt::format("{} is not supported; 1 is", partial));
}

void read_head_dim(const Fields& fields, const FamilyDefaults& defaults, ModelConfig& config) {
  constexpr int64_t kDerived = std::numeric_limits<int64_t>::min();
  const int64_t absent = defaults.head_dim > 0 ? defaults.head_dim : kDerived;
  config.head_dim = fields.integer_or("head_dim", absent, kDerived);
  if (config.head_dim != kDerived || config.num_attention_heads < 1) return;
  if (config.hidden_size % config.num_attention_heads != 0)
    throw ConfigError("config.json num_attention_heads",
                      fmt::format("{} does not divide hidden_size {}, and head_dim is missing",
                                  config.num_attention_heads, config.hidden_size));
  config.head_dim = config.hidden_size / config.num_attention_heads;
}

std::string read_architecture(const Fields& fields) {
  const Json* list = fields.find("architectures");
  if (list == nullptr) throw ConfigError(fields.name("architectures"), "is missing");
  if (!list->is_array() || list->as_array().empty() || !list->as_array()[0].is_string())
    throw fields.wrong_type("architectures", *list, "a list of names");
  return list->as_array()[0].as_string();
}

/// Throws ConfigError that names the file, too.
void validate(const ModelConfig& config, const char* file) {
  try {
    config.validate();
  } catch (const ConfigError& error) {
    throw ConfigError(file, error.what());
  }
}

void read_generation(const std::string& text, ModelConfig& config) {
  if (text.empty()) return;
  const Json json = parse_object(text, "generation_config.json");
  const Fields fields(json, "generation_config.json ");
  GenerationDefaults& g = config.generation;
  g.do_sample = fields.boolean("do_sample");
  g.temperature = fields.number("temperature");
  g.top_p = fields.number("top_p");
  g.min_p = fields.number("min_p");
  g.top_k = fields.integer("top_k");
  if (g.top_k == -1) g.top_k = 0;  // both mean "all" in the field
  g.repetition_penalty = fields.number("repetition_penalty");
  g.max_new_tokens = fields.integer("max_new_tokens");
  std::vector<int32_t> eos = read_token_ids(fields, "eos_token_id");
  if (!eos.empty()) config.eos_token_id = std::move(eos);
  validate(config, "generation_config.json");
}

}  // namespace

ModelConfig parse_model_config(const std::string& config_json,
                               const std::string& generation_config_json) {
  const Json json = parse_object(config_json, "config.json");
  const Fields fields(json, "config.json ");
  ModelConfig config;
  config.architecture = read_architecture(fields);
  const ModelFamily& family = find_family(config.architecture);
  const FamilyDefaults& defaults = family.defaults;
  refuse_unsupported(fields);
  config.hidden_size = fields.required_integer("hidden_size");
  config.intermediate_size = fields.required_integer("intermediate_size");
  config.num_hidden_layers = fields.required_integer("num_hidden_layers");
  config.num_attention_heads = fields.required_integer("num_attention_heads");
  config.num_key_value_heads = fields.integer_or(
      "num_key_value_heads",
      defaults.num_key_value_heads > 0 ? defaults.num_key_value_heads : config.num_attention_heads,
      config.num_attention_heads);
  config.vocab_size = fields.required_integer("vocab_size");
  config.max_position_embeddings =
      fields.integer("max_position_embeddings").value_or(defaults.max_position_embeddings);
  config.rms_norm_eps = fields.number("rms_norm_eps").value_or(defaults.rms_norm_eps);
  read_head_dim(fields, defaults, config);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings").value_or(false);
  const bool attention_bias =
      defaults.reads_attention_bias && fields.boolean("attention_bias").value_or(false);
  config.qkv_bias = defaults.qkv_bias || attention_bias;
  config.o_bias = attention_bias;
  config.mlp_bias = defaults.reads_mlp_bias && fields.boolean("mlp_bias").value_or(false);
  config.qk_norm = defaults.qk_norm;
  if (defaults.sparse) {
    config.num_local_experts = fields.integer("num_local_experts").value_or(8);
    config.num_experts_per_tok = fields.integer("num_experts_per_tok").value_or(2);
    if (config.num_local_experts < 1)
      throw ConfigError("config.json num_local_experts",
                        fmt::format("{} must be at least 1", config.num_local_experts));
  }
  config.dtype = read_dtype(fields);
  read_rope(fields, defaults, config);
  read_sliding_window(fields, defaults, config);
  config.eos_token_id = read_token_ids(fields, "eos_token_id");
  const std::vector<int32_t> bos = read_token_ids(fields, "bos_token_id");
  if (!bos.empty()) config.bos_token_id = bos.front();
  validate(config, "config.json");
  read_generation(generation_config_json, config);
  return config;
}

ModelConfig read_model_config(const std::filesystem::path& model) {
  if (model.extension() == ".gguf") return read_gguf_config(model);
  const std::filesystem::path generation = model / "generation_config.json";
  const std::string text = read_file(model / "config.json");
  return parse_model_config(text, file_exists(generation) ? read_file(generation) : "");
}

}  // namespace nanoflow
