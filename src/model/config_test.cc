#include "model/config.h"

#include <cmath>
#include <fstream>
#include <numbers>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

using testing::HasSubstr;

/// Llama-3.1-8B's config.json as published, reduced to what changes the computation.
Json llama31() {
  return parse_json(R"({
    "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256})")
      .value();
}

Json qwen2() {
  return parse_json(R"({"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896,
    "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 4,
    "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 3,
    "tie_word_embeddings": true})")
      .value();
}

Json with(Json json, const std::string& key, Json value) {
  json.set(key, std::move(value));
  return json;
}

Json without(const Json& json, const std::string& key) {
  Json out = Json::object();
  for (const auto& [name, value] : json.as_object())
    if (name != key) out.set(name, value);
  return out;
}

ModelConfig parse(const Json& json, const std::string& generation = "") {
  return parse_model_config(json.dump(), generation);
}

std::string error_of(const Json& json, const std::string& generation = "") {
  try {
    (void)parse(json, generation);
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ModelConfig, ReadsLlama31AndDerivesItsNumbers) {
  const ModelConfig c = parse(llama31());
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(c.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(c.eos_token_id, (std::vector<int32_t>{128001, 128008, 128009}));
  EXPECT_EQ(c.bos_token_id, 128000);
  EXPECT_EQ(c.dtype, DType::kBF16);
  EXPECT_FALSE(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm || c.is_moe());
  EXPECT_EQ(c.qkv_rows(1), 6144);
  EXPECT_EQ(c.qkv_rows(4), 1536);
  EXPECT_EQ(c.kv_heads(16), 1);                   // replicated
  EXPECT_EQ(c.parameters().total(), 8030261248);  // as published
  EXPECT_EQ(c.parameters().active, c.parameters().total());
  EXPECT_EQ(c.weight_bytes(DType::kBF16, 1), 2 * 8030261248);
  EXPECT_EQ(c.kv_bytes_per_token(DType::kBF16, 1), 131072);
  EXPECT_EQ(c.kv_bytes_per_token(DType::kBF16, 8), 16384);
  EXPECT_EQ(c.vocab_rows(7), 18323);
}

TEST(ModelConfig, Transformers5StyleReadsTheSame) {
  Json v5 = without(without(without(llama31(), "rope_theta"), "rope_scaling"), "torch_dtype");
  Json rope = *llama31().find("rope_scaling");
  rope.set("rope_theta", 500000.0);
  v5.set("rope_parameters", rope);
  v5.set("dtype", "bfloat16");
  EXPECT_EQ(parse(v5), parse(llama31()));
}

TEST(ModelConfig, ParameterCountsOfPublishedModels) {
  const auto mixtral = parse_model_config(
      R"({"architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
          "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
          "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
          "sliding_window": null})",
      "");
  EXPECT_EQ(mixtral.parameters().total(), 46702792704);
  EXPECT_EQ(mixtral.parameters().active, 12879925248);
  EXPECT_EQ(mixtral.rope_theta, 1e6);
  EXPECT_EQ(mixtral.rms_norm_eps, 1e-5);
  EXPECT_EQ(mixtral.max_position_embeddings, 131072);
  EXPECT_EQ(mixtral.sliding_window, 0);
}

TEST(ModelConfig, WindowsByFamily) {
  EXPECT_EQ(parse(qwen2()).window(3), 0);  // use_sliding_window is false
  const Json sliding = with(qwen2(), "use_sliding_window", true);
  EXPECT_EQ(parse(sliding).window(2), 0);
  EXPECT_EQ(parse(sliding).window(3), 32768);
  const Json types = with(
      sliding, "layer_types",
      Json::array({"sliding_attention", "full_attention", "full_attention", "full_attention"}));
  EXPECT_EQ(parse(types).window(0), 32768);
  EXPECT_EQ(parse(types).window(3), 0);
  EXPECT_THAT(error_of(with(sliding, "layer_types", Json::array({"full_attention"}))),
              HasSubstr("layer_types: has 1 entries for num_hidden_layers 4"));
  EXPECT_THAT(error_of(with(sliding, "layer_types", Json::array({"chunked_attention"}))),
              HasSubstr("layer_types"));

  const Json mistral = with(llama31(), "architectures", Json::array({"MistralForCausalLM"}));
  EXPECT_EQ(parse(mistral).window(0), 4096);  // the class's default
  EXPECT_EQ(parse(with(mistral, "sliding_window", nullptr)).window(0), 0);
  EXPECT_EQ(parse(with(mistral, "sliding_window", 77)).window(31), 77);
  EXPECT_EQ(parse(with(llama31(), "sliding_window", 77)).window(0), 0);  // Llama does not look
}

TEST(ModelConfig, BiasesAndNormsByFamily) {
  const ModelConfig q2 = parse(qwen2());
  EXPECT_TRUE(q2.qkv_bias);
  EXPECT_FALSE(q2.o_bias);
  EXPECT_EQ(q2.head_dim, 64);
  const Json q3 = with(qwen2(), "architectures", Json::array({"Qwen3ForCausalLM"}));
  EXPECT_TRUE(parse(q3).qk_norm);
  EXPECT_EQ(parse(q3).head_dim, 128);  // the class's default
  EXPECT_FALSE(parse(q3).qkv_bias);
  EXPECT_TRUE(parse(with(q3, "attention_bias", true)).o_bias);
  const ModelConfig biased = parse(with(with(llama31(), "attention_bias", true), "mlp_bias", true));
  EXPECT_TRUE(biased.qkv_bias && biased.o_bias && biased.mlp_bias);
}

TEST(ModelConfig, GenerationConfigWins) {
  const ModelConfig c = parse(llama31(), R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9,
      "top_k": 20, "min_p": null, "repetition_penalty": 1.05, "eos_token_id": [128009, 128001]})");
  EXPECT_EQ(c.eos_token_id, (std::vector<int32_t>{128009, 128001}));
  EXPECT_EQ(c.generation.do_sample, true);
  EXPECT_EQ(c.generation.temperature, 0.6);
  EXPECT_EQ(c.generation.top_p, 0.9);
  EXPECT_EQ(c.generation.top_k, 20);
  EXPECT_EQ(c.generation.min_p, std::nullopt);
  EXPECT_EQ(c.generation.repetition_penalty, 1.05);
  EXPECT_EQ(parse(llama31(), "{}").eos_token_id.size(), 3u);
  EXPECT_EQ(parse(llama31(), R"({"top_k": -1})").generation.top_k, 0);
  EXPECT_THAT(error_of(llama31(), R"({"temperature": -1})"), HasSubstr("temperature"));
  EXPECT_THAT(error_of(llama31(), R"({"top_p": 0})"), HasSubstr("top_p"));
  EXPECT_THAT(error_of(llama31(), R"({"top_k": "x"})"), HasSubstr("top_k: must be an integer"));
  EXPECT_THAT(error_of(llama31(), R"({"eos_token_id": 128256})"), HasSubstr("eos_token_id"));
  EXPECT_THAT(error_of(llama31(), "["), HasSubstr("generation_config.json"));
  EXPECT_THAT(error_of(llama31(), R"({"top_p": 2})"),
              HasSubstr("generation_config.json: top_p: 2 is outside"));
  EXPECT_THAT(
      error_of(llama31(), R"({"temperature": NaN})"),
      HasSubstr("generation_config.json: invalid JSON: temperature: NaN is no JSON number"));
}

TEST(ModelConfig, NumbersThatAreNoneAreNamedWithFileAndField) {
  const auto error_with = [](const std::string& member) {
    std::string text = llama31().dump();
    text.insert(1, member + ", ");
    try {
      (void)parse_model_config(text, "");
    } catch (const EnvironmentError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(error_with(R"("rope_theta": NaN)"),
              HasSubstr("config.json: invalid JSON: rope_theta: NaN is no JSON number"));
  EXPECT_THAT(error_with(R"("rope_scaling": {"factor": -Infinity})"),
              HasSubstr("config.json: invalid JSON: rope_scaling.factor: -Infinity is no"));
  EXPECT_THAT(error_with(R"("rms_norm_eps": 1e999)"),
              HasSubstr("config.json: invalid JSON: rms_norm_eps: 1e999 is out of range"));
  EXPECT_THAT(error_with(R"("head_dim": 99999999999999999999)"),
              HasSubstr("config.json: invalid JSON: head_dim: 99999999999999999999 is out of"));
  EXPECT_THAT(error_of(with(llama31(), "vocab_size", -1)),
              HasSubstr("config.json: vocab_size: -1 is outside"));
}

TEST(ModelConfig, RefusesWhatItCannotComputeByName) {
  const auto refuses = [](const char* key, Json value, const char* text) {
    EXPECT_THAT(error_of(with(llama31(), key, std::move(value))), HasSubstr(text)) << key;
  };
  refuses("architectures", Json::array({"FalconForCausalLM"}), "'FalconForCausalLM'");
  refuses("architectures", Json::array(), "architectures");
  refuses("architectures", "LlamaForCausalLM", "architectures");
  refuses("quantization_config", Json::object({{"quant_method", "awq"}}), "awq");
  refuses("hidden_act", "gelu", "'gelu'");
  refuses("partial_rotary_factor", 0.5, "partial_rotary_factor: 0.5");
  refuses("torch_dtype", "float64", "'float64'");
  for (const char* type : {"yarn", "dynamic", "longrope", "su"})
    refuses("rope_scaling", Json::object({{"rope_type", type}, {"factor", 2.0}}), type);
  refuses("rope_scaling", Json::object({{"type", "linear"}}), "rope_scaling.factor: is missing");
  refuses("rope_scaling", Json::object({{"rope_type", "llama3"}, {"factor", 2.0}}),
          "low_freq_factor: is missing");
  refuses("rope_parameters", Json::object({{"partial_rotary_factor", 0.25}}),
          "rope_parameters.partial_rotary_factor");
  refuses("rope_scaling", 3, "must be an object");
}

TEST(ModelConfig, EveryNumberIsChecked) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const Json& bad : {Json(0), Json(-1), Json(int64_t{1} << 40), Json(1e300), Json(1.5),
                            Json("7"), Json(true)}) {
      EXPECT_THAT(error_of(with(llama31(), key, bad)), HasSubstr(key)) << bad.dump();
    }
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size", "architectures"})
    EXPECT_THAT(error_of(without(llama31(), key)), HasSubstr(std::string(key) + ": is missing"));
  for (const char* key : {"rms_norm_eps", "rope_theta"})
    for (const Json& bad : {Json(0), Json(-1.0), Json(1e300), Json("x")})
      EXPECT_THAT(error_of(with(llama31(), key, bad)), HasSubstr(key)) << bad.dump();
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    const Json rope = with(*llama31().find("rope_scaling"), key, -1);
    EXPECT_THAT(error_of(with(llama31(), "rope_scaling", rope)), HasSubstr(key));
  }
  EXPECT_THAT(error_of(with(llama31(), "num_key_value_heads", 5)),
              HasSubstr("num_key_value_heads: 5 does not divide"));
  EXPECT_THAT(error_of(with(llama31(), "head_dim", 127)), HasSubstr("head_dim"));
  EXPECT_THAT(error_of(with(llama31(), "num_attention_heads", 40)),
              HasSubstr("does not divide hidden_size"));
  EXPECT_THAT(error_of(with(llama31(), "eos_token_id", 128256)), HasSubstr("eos_token_id"));
  EXPECT_THAT(error_of(with(llama31(), "eos_token_id", Json::array({"a"}))),
              HasSubstr("eos_token_id"));
  EXPECT_THAT(error_of(with(llama31(), "eos_token_id", -7)), HasSubstr("eos_token_id"));
  EXPECT_EQ(parse(with(llama31(), "hidden_size", 4096.0)).hidden_size, 4096);
  // In range one by one, absurd together.
  Json huge = with(with(llama31(), "hidden_size", 1 << 20), "intermediate_size", 1 << 20);
  huge = with(with(huge, "num_hidden_layers", 4096), "head_dim", 128);
  EXPECT_THAT(error_of(huge), HasSubstr("1e14 parameters"));
}

// Whatever a file says, the answer is a configuration or an EnvironmentError.
TEST(ModelConfig, OddValuesNeverCrash) {
  Json base = llama31();
  for (const char* key : {"head_dim", "sliding_window", "layer_types", "use_sliding_window",
                          "max_window_layers", "num_local_experts", "num_experts_per_tok",
                          "quantization_config", "dtype", "rope_parameters"})
    base.set(key, nullptr);
  const Json nested = Json::object({{"type", Json::array()}, {"factor", "x"}});
  int accepted = 0, refused = 0;
  for (const char* family : {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
                             "MistralForCausalLM", "MixtralForCausalLM"}) {
    base.set("architectures", Json::array({family}));
    for (const auto& [key, value] : base.as_object()) {
      for (const Json& odd :
           {Json(nullptr), Json(0), Json(-1), Json(1), Json(INT64_MAX), Json(INT64_MIN), Json(0.5),
            Json(-1e308), Json(true), Json(""), Json("silu"), Json::array(),
            Json::array({1, "x", nullptr}), Json::object(), nested}) {
        (error_of(with(base, key, odd)) == "accepted" ? accepted : refused) += 1;
        (void)error_of(llama31(), Json::object({{key, odd}}).dump());
      }
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 500);
}

TEST(ModelConfig, ValidateCatchesNanThatJsonCannotCarry) {
  ModelConfig c = parse(llama31());
  c.rope_theta = NAN;
  EXPECT_THROW(c.validate(), ConfigError);
  c = parse(llama31());
  c.rms_norm_eps = NAN;
  EXPECT_THROW(c.validate(), ConfigError);
  c = parse(llama31());
  c.rope_scaling.factor = INFINITY;
  EXPECT_THROW(c.validate(), ConfigError);
}

TEST(ModelConfig, TensorParallelSizes) {
  const ModelConfig c = parse(llama31());
  for (const int tp : {1, 2, 4, 8, 16, 32}) EXPECT_NO_THROW(c.validate_tp(tp)) << tp;
  for (const int tp : {-1, 0, 3, 6, 5, 64, 4096})
    EXPECT_THROW(c.validate_tp(tp), ConfigError) << tp;
}

TEST(ModelConfig, FilesThatAreMissingOrNoJson) {
  const TestFolder folder;
  const std::filesystem::path& dir = folder.path();
  EXPECT_THROW(read_model_config(dir), IoError);
  EXPECT_THROW(read_model_config(dir / "absent"), IoError);
  write_file_atomically(dir / "config.json", "{\"architectures\": ");
  EXPECT_THROW(read_model_config(dir), FormatError);
  write_file_atomically(dir / "config.json", "[1]");
  EXPECT_THROW(read_model_config(dir), FormatError);
  write_file_atomically(dir / "config.json", llama31().dump());
  EXPECT_EQ(read_model_config(dir), parse(llama31()));
  write_file_atomically(dir / "generation_config.json", R"({"top_k": 5})");
  EXPECT_EQ(read_model_config(dir).generation.top_k, 5);
}

TEST(RopeFrequencies, ScalingKeepsHighAndStretchesLowFrequencies) {
  ModelConfig c = parse(llama31());
  ModelConfig plain = c;
  plain.rope_scaling = {};
  const std::vector<double> scaled = rope_inverse_frequencies(c);
  const std::vector<double> original = rope_inverse_frequencies(plain);
  ASSERT_EQ(scaled.size(), 64u);
  EXPECT_EQ(original[0], 1.0);
  EXPECT_NEAR(original[1], std::pow(500000.0, -2.0 / 128), 1e-15);
  for (size_t i = 0; i < scaled.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / original[i];
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(scaled[i], original[i]);
    } else if (wavelength > 8192.0) {
      EXPECT_EQ(scaled[i], original[i] / 8);
    } else {
      EXPECT_GT(scaled[i], original[i] / 8);
      EXPECT_LT(scaled[i], original[i]);
    }
  }
  plain.rope_scaling = {.type = RopeScaling::Type::kLinear, .factor = 4};
  EXPECT_EQ(rope_inverse_frequencies(plain)[7], original[7] / 4);
}

}  // namespace
}  // namespace nanoflow
