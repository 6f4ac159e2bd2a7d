// Derived numbers and validation of ModelConfig; reading it lives in config_json.cc and
// config_gguf.cc.
#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

// Far above any published model, and low enough that products of three stay within int64.
constexpr int64_t kMaxDim = int64_t{1} << 20;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 28;
constexpr int64_t kMaxLayers = 4096;

void check_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw ConfigError(field, fmt::format("{} is outside [{}, {}]", value, low, high));
}

void check_positive(const char* field, double value, double high) {
  if (!(value > 0) || !(value <= high))
    throw ConfigError(field, fmt::format("{} is outside (0, {}]", value, high));
}

void check_rope(const ModelConfig& c) {
  check_positive("rope_theta", c.rope_theta, 1e15);
  const RopeScaling& s = c.rope_scaling;
  if (s.type == RopeScaling::Type::kDefault) return;
  check_positive("rope_scaling.factor", s.factor, 1e6);
  if (s.type != RopeScaling::Type::kLlama3) return;
  check_positive("rope_scaling.low_freq_factor", s.low_freq_factor, 1e6);
  check_positive("rope_scaling.high_freq_factor", s.high_freq_factor, 1e6);
  if (s.high_freq_factor <= s.low_freq_factor)
    throw ConfigError("rope_scaling.high_freq_factor",
                      fmt::format("{} must be greater than low_freq_factor {}", s.high_freq_factor,
                                  s.low_freq_factor));
  check_range("rope_scaling.original_max_position_embeddings", s.original_max_position_embeddings,
              1, kMaxPositions);
}

void check_attention(const ModelConfig& c) {
  check_range("num_attention_heads", c.num_attention_heads, 1, kMaxDim);
  check_range("num_key_value_heads", c.num_key_value_heads, 1, kMaxDim);
  if (c.num_attention_heads % c.num_key_value_heads != 0)
    throw ConfigError("num_key_value_heads",
                      fmt::format("{} does not divide num_attention_heads {}",
                                  c.num_key_value_heads, c.num_attention_heads));
  check_range("head_dim", c.head_dim, 2, 4096);
  if (c.head_dim % 2 != 0)
    throw ConfigError("head_dim",
                      fmt::format("{} is odd; rotary embedding needs pairs", c.head_dim));
  check_range("num_attention_heads * head_dim", c.num_attention_heads * c.head_dim, 2, kMaxDim);
  check_range("sliding_window", c.sliding_window, 0, kMaxPositions);
  if (!c.layer_slides.empty() && c.layer_slides.size() != static_cast<size_t>(c.num_hidden_layers))
    throw ConfigError("layer_types", fmt::format("has {} entries for num_hidden_layers {}",
                                                 c.layer_slides.size(), c.num_hidden_layers));
}

void check_tokens(const ModelConfig& c) {
  for (const int32_t id : c.eos_token_id) check_range("eos_token_id", id, 0, c.vocab_size - 1);
  check_range("bos_token_id", c.bos_token_id, -1, c.vocab_size - 1);
}

void check_generation(const GenerationDefaults& g) {
  if (g.temperature && !(*g.temperature >= 0 && *g.temperature <= 1e6))
    throw ConfigError("temperature", fmt::format("{} is outside [0, 1e6]", *g.temperature));
  if (g.top_p) check_positive("top_p", *g.top_p, 1);
  if (g.min_p && !(*g.min_p >= 0 && *g.min_p <= 1))
    throw ConfigError("min_p", fmt::format("{} is outside [0, 1]", *g.min_p));
  if (g.top_k) check_range("top_k", *g.top_k, 0, kMaxVocab);
  if (g.repetition_penalty) check_positive("repetition_penalty", *g.repetition_penalty, 1e6);
  if (g.max_new_tokens) check_range("max_new_tokens", *g.max_new_tokens, 1, kMaxPositions);
}

/// Llama 3.1's frequency scaling: wavelengths above original / low_freq_factor are stretched by
/// `factor`, below original / high_freq_factor kept, linear in between.
double scale_llama3(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(s.original_max_position_embeddings);
  if (wavelength < original / s.high_freq_factor) return frequency;
  if (wavelength > original / s.low_freq_factor) return frequency / s.factor;
  const double smooth =
      (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * frequency / s.factor + smooth * frequency;
}

}  // namespace

int64_t ModelConfig::window(int layer) const {
  if (layer_slides.empty()) return sliding_window;
  return layer_slides[static_cast<size_t>(layer)] ? sliding_window : 0;
}

ParameterCount ModelConfig::parameters() const {
  const int64_t layers = num_hidden_layers;
  const int64_t q = q_rows(1);
  ParameterCount count;
  count.embedding = vocab_size * hidden_size;
  count.lm_head = tie_word_embeddings ? 0 : vocab_size * hidden_size;
  count.attention =
      layers * (qkv_rows(1) * hidden_size + q * hidden_size + (qkv_bias ? qkv_rows(1) : 0) +
                (o_bias ? hidden_size : 0) + (qk_norm ? 2 * head_dim : 0));
  const int64_t ffn_one =
      3 * intermediate_size * hidden_size + (mlp_bias ? 2 * intermediate_size + hidden_size : 0);
  const int64_t router = num_local_experts * hidden_size;
  count.ffn = layers * (is_moe() ? num_local_experts * ffn_one + router : ffn_one);
  count.norms = (2 * layers + 1) * hidden_size;
  const int64_t idle_experts = is_moe() ? num_local_experts - num_experts_per_tok : 0;
  count.active = count.total() - layers * idle_experts * ffn_one;
  return count;
}

int64_t ModelConfig::weight_bytes(DType weight_dtype, int tp_size) const {
  const int64_t h = hidden_size;
  const int64_t ffn_one = 3 * ffn_rows(tp_size) * h + (mlp_bias ? 2 * ffn_rows(tp_size) + h : 0);
  const int64_t attention = (qkv_rows(tp_size) + q_rows(tp_size)) * h +
                            (qkv_bias ? qkv_rows(tp_size) : 0) + (o_bias ? h : 0) +
                            (qk_norm ? 2 * head_dim : 0);
  const int64_t ffn = is_moe() ? num_local_experts * (ffn_one + h) : ffn_one;
  const bool shared_head = tie_word_embeddings && tp_size == 1;
  const int64_t head = shared_head ? 0 : vocab_rows(tp_size) * h;
  const int64_t count = num_hidden_layers * (attention + ffn + 2 * h) + h + vocab_size * h + head;
  return count * dtype_size(weight_dtype);
}

int64_t ModelConfig::kv_bytes_per_token(DType kv_dtype, int tp_size) const {
  return num_hidden_layers * 2 * kv_rows(tp_size) * dtype_size(kv_dtype);
}

void ModelConfig::validate() const {
  check_range("hidden_size", hidden_size, 1, kMaxDim);
  check_range("intermediate_size", intermediate_size, 1, kMaxDim);
  check_range("num_hidden_layers", num_hidden_layers, 1, kMaxLayers);
  check_range("vocab_size", vocab_size, 1, kMaxVocab);
  check_range("max_position_embeddings", max_position_embeddings, 1, kMaxPositions);
  check_positive("rms_norm_eps", rms_norm_eps, 1);
  check_attention(*this);
  check_rope(*this);
  check_range("num_local_experts", num_local_experts, 0, 4096);
  if (is_moe()) check_range("num_experts_per_tok", num_experts_per_tok, 1, num_local_experts);
  // Each number may be in range and their product still absurd; products must fit int64.
  const double parameters_bound =
      static_cast<double>(num_hidden_layers) * static_cast<double>(hidden_size) *
      (4.0 * static_cast<double>(q_rows(1)) +
       3.0 * static_cast<double>(intermediate_size) *
           static_cast<double>(std::max<int64_t>(1, num_local_experts)));
  if (parameters_bound > 1e14)
    throw ConfigError("num_hidden_layers", "the sizes amount to more than 1e14 parameters");
  check_tokens(*this);
  check_generation(generation);
}

void ModelConfig::validate_tp(int tp_size) const {
  check_range("tp_size", tp_size, 1, 1024);
  const auto must_divide = [&](const char* field, int64_t value) {
    if (value % tp_size != 0)
      throw ConfigError("tp_size", fmt::format("{} does not divide {} {}", tp_size, field, value));
  };
  must_divide("num_attention_heads", num_attention_heads);
  must_divide("intermediate_size", intermediate_size);
  if (num_key_value_heads % tp_size != 0 && tp_size % num_key_value_heads != 0)
    throw ConfigError(
        "tp_size", fmt::format("{} and num_key_value_heads {} do not divide one another", tp_size,
                               num_key_value_heads));
  check_range("tp_size", tp_size, 1, vocab_size);
}

std::vector<double> rope_inverse_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(config.head_dim);
    double frequency = std::pow(config.rope_theta, -exponent);
    if (config.rope_scaling.type == RopeScaling::Type::kLinear)
      frequency /= config.rope_scaling.factor;
    if (config.rope_scaling.type == RopeScaling::Type::kLlama3)
      frequency = scale_llama3(frequency, config.rope_scaling);
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace nanoflow
