// Safetensors and GGUF sources, and configurations from GGUF metadata.
#include "model/source.h"

#include <cmath>
#include <filesystem>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"
#include "formats/safetensors.h"
#include "model/config_gguf.h"
#include "model/convert.h"
#include "model/fake_backend.h"
#include "model/weight_plan.h"
#include "model/weights.h"

namespace nanoflow {
namespace {

using testing::HasSubstr;

ModelConfig tiny() {
  ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 11;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 10000;
  c.qkv_bias = true;
  return c;
}

std::filesystem::path temp_path(const std::string& name) {
  static const TestFolder folder;
  return folder / name;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "accepted";
}

std::vector<float> values_of(const CheckpointSource& source, const std::string& name) {
  const std::vector<int64_t> dims = source.shape(name);
  const int64_t rows = dims.size() == 1 ? 1 : dims[0];
  std::vector<float> out(static_cast<size_t>(rows * dims.back()));
  source.read(name, 0, 0, TensorView(out.data(), DType::kF32, {rows, dims.back()}));
  return out;
}

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

/// What a checkpoint of `config` holds, drawn by the dummy source.
std::vector<Tensor> all_tensors(const ModelConfig& config) {
  const auto source = make_dummy_source(config, {.seed = 3, .matrix_deviation = 1});
  std::vector<Tensor> out;
  for (const WeightSpec& spec : plan_weights(config, 0, 1))
    for (const WeightPiece& piece : spec.pieces)
      if (out.empty() || out.front().name != piece.tensor)  // a tied head comes twice
        out.push_back({piece.tensor, piece.shape, values_of(*source, piece.tensor)});
  return out;
}

std::filesystem::path write_folder(const std::vector<Tensor>& tensors, DType dtype,
                                   const std::string& name) {
  const auto folder = temp_path(name);
  std::filesystem::create_directories(folder);
  std::vector<std::vector<std::byte>> bytes;
  std::vector<SafetensorsOutput> out;
  for (const Tensor& t : tensors) {
    bytes.emplace_back(t.values.size() * static_cast<size_t>(dtype_size(dtype)));
    if (is_weight_dtype(dtype))
      convert_elements(t.values.data(), DType::kF32, bytes.back().data(), dtype,
                       static_cast<int64_t>(t.values.size()));
  }
  for (size_t i = 0; i < tensors.size(); ++i)
    out.push_back({tensors[i].name, dtype, tensors[i].shape, bytes[i]});
  write_safetensors(folder / "model.safetensors", out);
  return folder;
}

void load(const ModelConfig& config, const CheckpointSource& source) {
  FakeBackend backend;
  const WeightStore store(config, source, backend, {.dtype = DType::kF32});
}

TEST(SafetensorsSource, ReadsSlicesOfEveryDtype) {
  const ModelConfig c = tiny();
  const std::vector<Tensor> tensors = all_tensors(c);
  for (const DType stored : {DType::kF32, DType::kF16, DType::kBF16}) {
    const auto source =
        open_safetensors_source(write_folder(tensors, stored, std::string(dtype_name(stored))));
    for (const Tensor& t : tensors) EXPECT_EQ(source->shape(t.name), t.shape);
    const Tensor& embed = tensors[0];
    std::vector<float> part(2 * 5);
    source->read(embed.name, 9, 20, TensorView(part.data(), DType::kF32, {2, 5}));
    for (size_t i = 0; i < part.size(); ++i) {
      const float want = embed.values[(9 + i / 5) * 32 + 20 + i % 5];
      EXPECT_NEAR(part[i], want, std::abs(want) * dtype_epsilon(stored));
    }
    load(c, *source);
  }
}

TEST(SafetensorsSource, NamesWhatIsWrong) {
  const ModelConfig c = tiny();
  std::vector<Tensor> tensors = all_tensors(c);
  const auto floats = open_safetensors_source(write_folder(tensors, DType::kF32, "good"));
  EXPECT_FALSE(floats->contains("rope_freqs.weight"));
  EXPECT_THAT(error_of([&] { (void)floats->shape("model.absent"); }), HasSubstr("model.absent"));

  const auto integers = open_safetensors_source(write_folder(tensors, DType::kI32, "integers"));
  EXPECT_THAT(error_of([&] { load(c, *integers); }), HasSubstr("is stored as I32"));

  const std::string name = "model.layers.0.mlp.down_proj.weight";
  for (Tensor& t : tensors)
    if (t.name == name) t.shape = {64, 32};
  const auto turned = open_safetensors_source(write_folder(tensors, DType::kF32, "turned"));
  EXPECT_THAT(error_of([&] { load(c, *turned); }),
              testing::AllOf(HasSubstr(name), HasSubstr("[64, 32]"), HasSubstr("[32, 64]")));

  std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  const auto missing = open_safetensors_source(write_folder(tensors, DType::kF32, "missing"));
  EXPECT_THAT(error_of([&] { load(c, *missing); }), HasSubstr("has no tensor " + name));
  EXPECT_THROW(open_safetensors_source(temp_path("nowhere")), IoError);
}

/// Writes GGUF version 3, as little as the tests need.
class GgufWriter {
 public:
  void text(const std::string& key, const std::string& value) {
    put_key(key, 8);
    put_text(meta_, value);
  }
  void integer(const std::string& key, uint32_t value) {
    put_key(key, 4);
    put(meta_, value);
  }
  void number(const std::string& key, float value) {
    put_key(key, 6);
    put(meta_, value);
  }
  void tensor(const std::string& name, const std::vector<int64_t>& shape, GgmlType type,
              const std::string& bytes) {
    put_text(infos_, name);
    put(infos_, static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i > 0; --i) put(infos_, static_cast<uint64_t>(shape[i - 1]));
    put(infos_, static_cast<uint32_t>(type));
    put(infos_, static_cast<uint64_t>(data_.size()));
    data_ += bytes;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensors_;
  }
  void tensor(const Tensor& t) {
    tensor(t.name, t.shape, GgmlType::kF32,
           {reinterpret_cast<const char*>(t.values.data()), t.values.size() * 4});
  }
  [[nodiscard]] std::filesystem::path write(const std::string& name) const {
    std::string out = "GGUF";
    put(out, uint32_t{3});
    put(out, tensors_);
    put(out, keys_);
    out += meta_ + infos_;
    out.resize((out.size() + 31) / 32 * 32);
    const auto path = temp_path(name + ".gguf");
    write_file_atomically(path, out + data_);
    return path;
  }

 private:
  template <typename T>
  static void put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static void put_text(std::string& out, const std::string& text) {
    put(out, static_cast<uint64_t>(text.size()));
    out += text;
  }
  void put_key(const std::string& key, uint32_t type) {
    put_text(meta_, key);
    put(meta_, type);
    ++keys_;
  }

  std::string meta_, infos_, data_;
  uint64_t keys_ = 0, tensors_ = 0;
};

/// Metadata of tiny() as a llama file but for the key `without`.
GgufWriter gguf_header(const std::string& architecture = "llama", const std::string& without = "") {
  GgufWriter w;
  w.text("general.architecture", architecture);
  const std::string p = architecture + ".";
  const auto integer = [&](const std::string& key, uint32_t value) {
    if (key != without) w.integer(p + key, value);
  };
  integer("embedding_length", 32);
  integer("feed_forward_length", 64);
  integer("block_count", 1);
  integer("context_length", 64);
  integer("attention.head_count", 4);
  integer("attention.head_count_kv", 2);
  if (without != "attention.layer_norm_rms_epsilon")
    w.number(p + "attention.layer_norm_rms_epsilon", 1e-5F);
  w.number(p + "rope.freq_base", 10000);
  return w;
}

const Tensor kEmbedding = {"token_embd.weight", {11, 32}, std::vector<float>(11 * 32)};

TEST(GgufConfig, ReadsMetadataAndTensorNames) {
  GgufWriter w = gguf_header();
  w.integer("tokenizer.ggml.bos_token_id", 1);
  w.integer("tokenizer.ggml.eos_token_id", 2);
  w.integer("tokenizer.ggml.eot_token_id", 3);
  w.tensor(kEmbedding);
  w.tensor({"blk.0.attn_q.bias", {32}, std::vector<float>(32)});
  ModelConfig want = tiny();
  want.tie_word_embeddings = true;
  want.bos_token_id = 1;
  want.eos_token_id = {2, 3};
  EXPECT_EQ(read_model_config(w.write("config")), want);

  GgufWriter moe = gguf_header();
  moe.integer("llama.expert_count", 8);
  moe.integer("llama.expert_used_count", 2);
  moe.integer("llama.attention.sliding_window", 7);
  moe.text("llama.rope.scaling.type", "linear");
  moe.number("llama.rope.scaling.factor", 4);
  moe.tensor(kEmbedding);
  moe.tensor({"output.weight", {11, 32}, std::vector<float>(11 * 32)});
  const ModelConfig c = read_model_config(moe.write("moe"));
  EXPECT_EQ(c.architecture, "MixtralForCausalLM");
  EXPECT_EQ(c.num_local_experts, 8);
  EXPECT_EQ(c.num_experts_per_tok, 2);
  EXPECT_EQ(c.sliding_window, 7);
  EXPECT_EQ(c.rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(c.rope_scaling.factor, 4);
  EXPECT_FALSE(c.tie_word_embeddings);

  GgufWriter qwen = gguf_header("qwen3");
  qwen.integer("qwen3.attention.key_length", 16);
  qwen.integer("qwen3.attention.value_length", 16);
  qwen.tensor(kEmbedding);
  const ModelConfig q = read_model_config(qwen.write("qwen3"));
  EXPECT_EQ(q.architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(q.head_dim, 16);
  EXPECT_TRUE(q.qk_norm);
}

TEST(GgufConfig, RefusesByKey) {
  const auto refused = [](GgufWriter w, bool embedding = true) {
    if (embedding) w.tensor(kEmbedding);
    const auto path = w.write("refused");
    return error_of([&] { (void)read_model_config(path); });
  };
  EXPECT_THAT(refused(gguf_header("falcon")), HasSubstr("'falcon' is not supported"));
  EXPECT_THAT(refused(GgufWriter()), HasSubstr("general.architecture: is missing"));
  EXPECT_THAT(refused(gguf_header(), false), HasSubstr("token_embd.weight"));
  for (const char* key :
       {"embedding_length", "feed_forward_length", "block_count", "context_length",
        "attention.head_count", "attention.layer_norm_rms_epsilon"})
    EXPECT_THAT(refused(gguf_header("llama", key)),
                HasSubstr(std::string("llama.") + key + ": is missing"));
  const auto with = [&](const std::string& key, uint32_t value, const std::string& arch = "llama") {
    GgufWriter w = gguf_header(arch);
    w.integer(arch + "." + key, value);
    return refused(w);
  };
  EXPECT_THAT(with("rope.dimension_count", 4), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(with("attention.value_length", 4), HasSubstr("attention.value_length"));
  EXPECT_THAT(with("attention.key_length", 7), HasSubstr("head_dim: 7"));
  EXPECT_THAT(with("attention.sliding_window", 4, "qwen2"), HasSubstr("sliding_window"));
  EXPECT_THAT(with("expert_count", 2), HasSubstr("expert_used_count: is missing"));
  GgufWriter yarn = gguf_header();
  yarn.text("llama.rope.scaling.type", "yarn");
  EXPECT_THAT(refused(yarn), HasSubstr("'yarn' is not supported"));
  GgufWriter token = gguf_header();
  token.integer("tokenizer.ggml.eos_token_id", 11);
  EXPECT_THAT(refused(token), HasSubstr("eos_token_id"));
  GgufWriter kind = gguf_header("llama", "block_count");
  kind.text("llama.block_count", "two");
  EXPECT_THAT(refused(kind), HasSubstr("llama.block_count"));
}

std::vector<float> counting(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  return values;
}

TEST(GgufSource, PutsLlamaQueriesAndKeysBackIntoPublishedOrder) {
  GgufWriter w = gguf_header();
  w.tensor(kEmbedding);
  w.tensor({"blk.0.attn_q.weight", {32, 32}, counting(32 * 32)});
  w.tensor({"blk.0.attn_k.bias", {16}, counting(16)});
  w.tensor({"blk.0.attn_v.bias", {16}, counting(16)});
  const auto path = w.write("permuted");
  const auto source = open_gguf_source(path, read_model_config(path));
  // head_dim 8: published row i + 4 j of a head is stored at 2 i + j.
  const std::vector<int64_t> stored = {0, 2, 4, 6, 1, 3, 5, 7};
  const std::string attn = "model.layers.0.self_attn.";
  for (int64_t row = 0; row < 32; ++row) {
    std::vector<float> out(3);
    source->read(attn + "q_proj.weight", row, 5, TensorView(out.data(), DType::kF32, {1, 3}));
    const int64_t from = row / 8 * 8 + stored[static_cast<size_t>(row % 8)];
    EXPECT_EQ(out[0], static_cast<float>(from * 32 + 5)) << row;
  }
  std::vector<float> bias(8);
  source->read(attn + "k_proj.bias", 0, 8, TensorView(bias.data(), DType::kF32, {1, 8}));
  EXPECT_EQ(bias, (std::vector<float>{8, 10, 12, 14, 9, 11, 13, 15}));
  EXPECT_EQ(values_of(*source, attn + "v_proj.bias"), counting(16));
}

TEST(GgufSource, OtherArchitecturesKeepTheirOrder) {
  GgufWriter w = gguf_header("qwen2");
  w.tensor(kEmbedding);
  w.tensor({"blk.0.attn_q.weight", {32, 32}, counting(32 * 32)});
  const auto path = w.write("unpermuted");
  const auto source = open_gguf_source(path, read_model_config(path));
  EXPECT_EQ(values_of(*source, "model.layers.0.self_attn.q_proj.weight"), counting(32 * 32));
}

TEST(GgufSource, ExpertsStackedOrSingle) {
  GgufWriter w = gguf_header();
  w.integer("llama.expert_count", 2);
  w.integer("llama.expert_used_count", 1);
  w.tensor(kEmbedding);
  w.tensor({"blk.0.ffn_gate_exps.weight", {2, 64, 32}, counting(2 * 64 * 32)});
  w.tensor({"blk.0.ffn_down.1.weight", {32, 64}, counting(32 * 64)});
  const auto path = w.write("experts");
  const auto source = open_gguf_source(path, read_model_config(path));
  const std::string moe = "model.layers.0.block_sparse_moe.experts.";
  EXPECT_EQ(source->shape(moe + "1.w1.weight"), (std::vector<int64_t>{64, 32}));
  EXPECT_EQ(values_of(*source, moe + "1.w1.weight")[7], 64 * 32 + 7);
  EXPECT_EQ(values_of(*source, moe + "1.w2.weight")[7], 7);
  EXPECT_THAT(error_of([&] { (void)source->shape(moe + "2.w1.weight"); }),
              HasSubstr("blk.0.ffn_gate_exps.weight"));
  EXPECT_THAT(error_of([&] { (void)source->shape(moe + "0.w3.weight"); }),
              HasSubstr("has no tensor blk.0.ffn_up_exps.weight"));
  source->drop(moe + "0.w1.weight");
  EXPECT_EQ(values_of(*source, moe + "1.w1.weight")[7], 64 * 32 + 7);
}

TEST(GgufSource, ColumnSlicesOfBlocks) {
  // Two Q8_0 blocks a row: half-precision scale, then 32 signed bytes.
  std::string bytes;
  for (int block = 0; block < 2 * 32; ++block) {
    const uint16_t scale = Float16(static_cast<float>(1 + block % 2)).bits;
    bytes.append(reinterpret_cast<const char*>(&scale), 2);
    for (int i = 0; i < 32; ++i) bytes.push_back(static_cast<char>(i - block / 2));
  }
  GgufWriter w = gguf_header();
  w.tensor(kEmbedding);
  w.tensor("blk.0.ffn_down.weight", {32, 64}, GgmlType::kQ8_0, bytes);
  const auto path = w.write("blocks");
  const auto source = open_gguf_source(path, read_model_config(path));
  std::vector<float> out(2 * 6);
  source->read("model.layers.0.mlp.down_proj.weight", 3, 29,
               TensorView(out.data(), DType::kF32, {2, 6}));
  EXPECT_EQ(out, (std::vector<float>{26, 27, 28, -6, -4, -2, 25, 26, 27, -8, -6, -4}));
}

TEST(GgufSource, RopeDivisorsStretchTheTable) {
  const ModelConfig c = tiny();
  const auto store_with = [&](const std::vector<float>& divisors, int64_t size) {
    GgufWriter w = gguf_header();
    const std::vector<std::pair<std::string, std::string>> names = {
        {"model.embed_tokens.", "token_embd."},
        {"model.norm.", "output_norm."},
        {"lm_head.", "output."},
        {"model.layers.0.input_layernorm.", "blk.0.attn_norm."},
        {"model.layers.0.post_attention_layernorm.", "blk.0.ffn_norm."},
        {"model.layers.0.self_attn.q_proj.", "blk.0.attn_q."},
        {"model.layers.0.self_attn.k_proj.", "blk.0.attn_k."},
        {"model.layers.0.self_attn.v_proj.", "blk.0.attn_v."},
        {"model.layers.0.self_attn.o_proj.", "blk.0.attn_output."},
        {"model.layers.0.mlp.gate_proj.", "blk.0.ffn_gate."},
        {"model.layers.0.mlp.up_proj.", "blk.0.ffn_up."},
        {"model.layers.0.mlp.down_proj.", "blk.0.ffn_down."}};
    for (Tensor t : all_tensors(c)) {
      for (const auto& [from, to] : names)
        if (t.name.starts_with(from)) t.name = to + t.name.substr(from.size());
      w.tensor(t);
    }
    w.tensor({"rope_freqs.weight", {size}, divisors});
    const auto path = w.write("rope");
    const auto source = open_gguf_source(path, c);
    FakeBackend backend;
    const WeightStore store(c, *source, backend, {.dtype = DType::kF32});
    return store.weight("cos_sin", -1).data.row<float>(1)[3];
  };
  const double plain = std::pow(10000.0, -0.75);
  EXPECT_EQ(store_with({1, 1, 2, 8}, 4), static_cast<float>(std::cos(plain / 8)));
  EXPECT_THAT(error_of([&] { store_with({1, 1, 2}, 3); }), HasSubstr("rope_freqs.weight"));
  EXPECT_THAT(error_of([&] { store_with({1, 1, 2, 0}, 4); }), HasSubstr("has the value 0"));
  EXPECT_THAT(error_of([&] { store_with({1, 1, 2, NAN}, 4); }), HasSubstr("has the value nan"));
}

TEST(GgufSource, TruncatedAndMissingFiles) {
  EXPECT_THROW(read_model_config(temp_path("absent.gguf")), IoError);
  const auto path = temp_path("short.gguf");
  write_file_atomically(path, "GGUF\x03");
  EXPECT_THROW(read_model_config(path), FormatError);
}

TEST(ConvertElements, RoundsToNearestEvenFromUnalignedMemory) {
  const std::vector<float> wide = {1.0F, 1.00390625F, 1.01171875F, -3.5F, 65520.0F};
  std::vector<char> raw(1 + wide.size() * 4);
  std::memcpy(raw.data() + 1, wide.data(), wide.size() * 4);
  std::vector<BFloat16> narrow(wide.size());
  convert_elements(raw.data() + 1, DType::kF32, narrow.data(), DType::kBF16, 5);
  EXPECT_EQ(static_cast<float>(narrow[1]), 1.0F);       // tie, down to even
  EXPECT_EQ(static_cast<float>(narrow[2]), 1.015625F);  // tie, up to even
  std::vector<Float16> half(wide.size());
  convert_elements(raw.data() + 1, DType::kF32, half.data(), DType::kF16, 5);
  EXPECT_EQ(static_cast<float>(half[3]), -3.5F);
  EXPECT_TRUE(std::isinf(static_cast<float>(half[4])));
  // More than one SIMD step, and a tail.
  std::vector<float> many(77), back(77);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<float>(i) - 30;
  std::vector<Float16> packed(77);
  convert_elements(many.data(), DType::kF32, packed.data(), DType::kF16, 77);
  convert_elements(packed.data(), DType::kF16, back.data(), DType::kF32, 77);
  EXPECT_EQ(back, many);
}

}  // namespace
}  // namespace nanoflow
