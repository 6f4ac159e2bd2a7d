#include "model/weights.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/fake_backend.h"

namespace nanoflow {
namespace {

using testing::HasSubstr;

ModelConfig tiny() {
  ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.hidden_size = 24;
  c.intermediate_size = 20;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 31;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 10000;
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = true;
  return c;
}

ModelConfig tiny_moe() {
  ModelConfig c = tiny();
  c.architecture = "MixtralForCausalLM";
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = false;
  c.num_local_experts = 4;
  c.num_experts_per_tok = 2;
  return c;
}

const DummyOptions kAllRandom = {
    .seed = 5, .matrix_deviation = 0.1, .norm_deviation = 0.2, .bias_deviation = 0.3};

/// Element (row, col) of a tensor, read on its own.
float element(const CheckpointSource& source, const std::string& name, int64_t row, int64_t col) {
  float value = 0;
  source.read(name, row, col, TensorView(&value, DType::kF32, {1, 1}));
  return value;
}

float at(const PackedWeight& weight, int64_t row, int64_t col) {
  return weight.data.row<float>(row)[col];
}

LoadOptions f32(int tp_rank = 0, int tp_size = 1) {
  return {.dtype = DType::kF32, .tp_rank = tp_rank, .tp_size = tp_size, .num_threads = 2};
}

TEST(WeightStore, FusesMatricesInTheOrderOfTheOps) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32());
  const std::string p = "model.layers.1.";
  const PackedWeight qkv = store.weight("qkv", 1);
  ASSERT_EQ(qkv.n, 64);
  ASSERT_EQ(qkv.k, 24);
  EXPECT_EQ(at(qkv, 31, 5), element(*source, p + "self_attn.q_proj.weight", 31, 5));
  EXPECT_EQ(at(qkv, 32, 5), element(*source, p + "self_attn.k_proj.weight", 0, 5));
  EXPECT_EQ(at(qkv, 48, 5), element(*source, p + "self_attn.v_proj.weight", 0, 5));
  const PackedWeight gate_up = store.weight("gate_up", 1);
  EXPECT_EQ(at(gate_up, 19, 3), element(*source, p + "mlp.gate_proj.weight", 19, 3));
  EXPECT_EQ(at(gate_up, 20, 3), element(*source, p + "mlp.up_proj.weight", 0, 3));
  const PackedWeight bias = store.weight("qkv_bias", 1);
  ASSERT_EQ(bias.data.rank(), 1);
  EXPECT_EQ(at(bias, 0, 33), element(*source, p + "self_attn.k_proj.bias", 0, 1));
  EXPECT_EQ(at(store.weight("final_norm", -1), 0, 7), element(*source, "model.norm.weight", 0, 7));
  EXPECT_TRUE(store.contains("q_norm", 0));
  EXPECT_FALSE(store.contains("q_norm", -1));
  EXPECT_FALSE(store.contains("router", 0));
}

TEST(WeightStore, RanksHoldRowsOfOneSideAndColumnsOfTheOther) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32(1, 2));
  const std::string p = "model.layers.0.";
  const PackedWeight qkv = store.weight("qkv", 0);
  ASSERT_EQ(qkv.n, 32);
  EXPECT_EQ(at(qkv, 0, 2), element(*source, p + "self_attn.q_proj.weight", 16, 2));
  EXPECT_EQ(at(qkv, 16, 2), element(*source, p + "self_attn.k_proj.weight", 8, 2));
  EXPECT_EQ(at(qkv, 24, 2), element(*source, p + "self_attn.v_proj.weight", 8, 2));
  const PackedWeight o = store.weight("o", 0);
  ASSERT_EQ(o.k, 16);
  EXPECT_EQ(at(o, 23, 3), element(*source, p + "self_attn.o_proj.weight", 23, 19));
  const PackedWeight down = store.weight("down", 0);
  ASSERT_EQ(down.k, 10);
  EXPECT_EQ(at(down, 4, 9), element(*source, p + "mlp.down_proj.weight", 4, 19));
  // Ranks are summed after o and down, so only the first may add their bias.
  EXPECT_EQ(at(store.weight("o_bias", 0), 0, 3), 0);
  EXPECT_EQ(at(store.weight("down_bias", 0), 0, 3), 0);
  const WeightStore first(c, *source, backend, f32(0, 2));
  EXPECT_EQ(at(first.weight("o_bias", 0), 0, 3),
            element(*source, p + "self_attn.o_proj.bias", 0, 3));
}

TEST(WeightStore, VocabularyIsPaddedWithZerosWhereItDoesNotDivide) {
  const ModelConfig c = tiny();  // 31 rows
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32(1, 2));
  const PackedWeight head = store.weight("lm_head", -1);
  ASSERT_EQ(head.n, 16);
  EXPECT_EQ(at(head, 14, 1), element(*source, "lm_head.weight", 30, 1));
  for (int64_t col = 0; col < 24; ++col) EXPECT_EQ(at(head, 15, col), 0);
  EXPECT_EQ(store.weight("embed", -1).n, 31);
}

TEST(WeightStore, FewerKvHeadsThanRanksAreReplicated) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend backend;
  for (int rank = 0; rank < 4; ++rank) {
    const WeightStore store(c, *source, backend, f32(rank, 4));
    const PackedWeight qkv = store.weight("qkv", 0);
    ASSERT_EQ(qkv.n, 24);
    EXPECT_EQ(at(qkv, 8, 0),
              element(*source, "model.layers.0.self_attn.k_proj.weight", rank / 2 * 8, 0));
  }
}

TEST(WeightStore, ExpertsAreStacked) {
  const ModelConfig c = tiny_moe();
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32(1, 2));
  const std::string e2 = "model.layers.1.block_sparse_moe.experts.2.";
  const PackedWeight gate_up = store.weight("experts_gate_up", 1);
  ASSERT_EQ(gate_up.experts, 4);
  ASSERT_EQ(gate_up.n, 20);
  EXPECT_EQ(at(gate_up, 2 * 20 + 3, 4), element(*source, e2 + "w1.weight", 13, 4));
  EXPECT_EQ(at(gate_up, 2 * 20 + 10, 4), element(*source, e2 + "w3.weight", 10, 4));
  const PackedWeight down = store.weight("experts_down", 1);
  ASSERT_EQ(down.n, 24);
  EXPECT_EQ(at(down, 2 * 24 + 5, 6), element(*source, e2 + "w2.weight", 5, 16));
  EXPECT_EQ(store.weight("router", 0).n, 4);
}

TEST(WeightStore, TiedEmbeddingsShareMemoryIfTheBackendsLayoutAllows) {
  ModelConfig c = tiny();
  c.tie_word_embeddings = true;
  const auto source = make_dummy_source(c, kAllRandom);
  FakeBackend plain;
  const WeightStore shared(c, *source, plain, f32());
  EXPECT_EQ(shared.weight("embed", -1).data.data(), shared.weight("lm_head", -1).data.data());
  FakeBackend packing(7);
  const WeightStore apart(c, *source, packing, f32());
  EXPECT_NE(apart.weight("embed", -1).data.data(), apart.weight("lm_head", -1).data.data());
  EXPECT_EQ(at(apart.weight("embed", -1), 30, 2),
            element(*source, "model.embed_tokens.weight", 30, 2));
  EXPECT_EQ(apart.bytes() - shared.bytes(), 31 * 24 * 4);
  const WeightStore rank(c, *source, plain, f32(1, 2));
  EXPECT_EQ(at(rank.weight("lm_head", -1), 0, 3),
            element(*source, "model.embed_tokens.weight", 16, 3));
}

TEST(WeightStore, BytesAreThoseOfTheConfiguration) {
  for (const ModelConfig& c : {tiny(), tiny_moe()}) {
    for (const int tp : {1, 2, 4}) {
      const auto source = make_dummy_source(c);
      FakeBackend backend;
      LoadOptions options = f32(0, tp);
      options.dtype = DType::kBF16;
      options.max_positions = 10;
      std::vector<int64_t> done;
      int64_t total = 0;
      options.progress = [&](int64_t bytes, int64_t of) {
        done.push_back(bytes);
        total = of;
      };
      const WeightStore store(c, *source, backend, options);
      const int64_t table = 10 * c.head_dim * 4;
      EXPECT_EQ(store.bytes(), c.weight_bytes(DType::kBF16, tp) + table);
      EXPECT_EQ(store.bytes_by_name().at("cos_sin"), table);
      EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
      EXPECT_EQ(done.back(), total);
      EXPECT_EQ(total, c.weight_bytes(DType::kBF16, tp));
    }
  }
}

TEST(WeightStore, RopeTableIsCosinesThenSines) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32());
  const PackedWeight table = store.weight("cos_sin", -1);
  ASSERT_EQ(table.data.rows(), 64);
  ASSERT_EQ(table.data.cols(), 8);
  for (const int64_t p : {0, 1, 63}) {
    for (int64_t i = 0; i < 4; ++i) {
      const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / 4);
      EXPECT_EQ(at(table, p, i), static_cast<float>(std::cos(angle)));
      EXPECT_EQ(at(table, p, 4 + i), static_cast<float>(std::sin(angle)));
    }
  }
}

/// A source whose one tensor is missing, misshapen, or fails while it is read.
/// Asks for matrices in pieces of seven rows.
class PieceBackend final : public FakeBackend {
 public:
  OwnedWeight load_weight(const WeightShape& shape, const WeightReader& read) override {
    Buffer whole = allocate_host(shape.rows * shape.cols * dtype_size(shape.dtype));
    const TensorView view = whole.view(shape.dtype, {shape.rows, shape.cols});
    for (int64_t row = 0; row < shape.rows; row += 7)
      read(row, view.slice_rows(row, std::min(row + 7, shape.rows)));
    return prepare_weight(view, shape.use, shape.experts);
  }
};

TEST(WeightStore, PiecesAndThreadsDoNotChangeABit) {
  for (ModelConfig c : {tiny(), tiny_moe()}) {
    c.hidden_size = 3000;  // several chunks per matrix
    c.vocab_size = 301;
    const auto source = make_dummy_source(c, kAllRandom);
    for (const int tp : {1, 2}) {
      LoadOptions options = f32(tp - 1, tp);
      options.num_threads = 1;
      FakeBackend whole_backend;
      PieceBackend piece_backend;
      const WeightStore whole(c, *source, whole_backend, options);
      options.num_threads = 5;
      const WeightStore pieces(c, *source, piece_backend, options);
      for (const auto& [name, bytes] : whole.bytes_by_name()) {
        const int layer = whole.contains(name, -1) ? -1 : 1;
        const TensorView a = whole.weight(name, layer).data;
        const TensorView b = pieces.weight(name, layer).data;
        ASSERT_EQ(a.size_bytes(), b.size_bytes()) << name;
        EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size_bytes())), 0) << name;
      }
    }
  }
}

class BrokenSource final : public CheckpointSource {
 public:
  enum class Kind { kMissing, kShape, kRead };
  BrokenSource(const ModelConfig& config, Kind kind, std::string name)
      : good_(make_dummy_source(config)), kind_(kind), name_(std::move(name)) {}
  [[nodiscard]] std::string description() const override { return "broken"; }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return good_->contains(name);
  }
  [[nodiscard]] std::vector<int64_t> shape(const std::string& name) const override {
    if (name == name_ && kind_ == Kind::kMissing) throw FormatError("broken", "no " + name);
    if (name == name_ && kind_ == Kind::kShape) return {3, 1};
    return good_->shape(name);
  }
  void read(const std::string& name, int64_t row, int64_t col,
            const TensorView& out) const override {
    if (name == name_ && kind_ == Kind::kRead) throw FormatError("broken", "cannot read " + name);
    good_->read(name, row, col, out);
  }
  void drop(const std::string&) const override {}

 private:
  std::unique_ptr<CheckpointSource> good_;
  Kind kind_;
  std::string name_;
};

TEST(WeightStore, ABrokenCheckpointIsNamed) {
  const ModelConfig c = tiny();
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  for (const auto kind :
       {BrokenSource::Kind::kMissing, BrokenSource::Kind::kShape, BrokenSource::Kind::kRead}) {
    const BrokenSource source(c, kind, name);
    FakeBackend backend;
    if (kind == BrokenSource::Kind::kRead) {
      EXPECT_NO_THROW(check_checkpoint(c, source)) << "no value is read";
    } else {
      EXPECT_THROW(check_checkpoint(c, source), FormatError);
    }
    try {
      const WeightStore store(c, source, backend, f32());
      FAIL() << "accepted";
    } catch (const FormatError& e) {
      EXPECT_THAT(e.what(), HasSubstr(name));
      if (kind == BrokenSource::Kind::kShape) {
        EXPECT_THAT(e.what(), HasSubstr("[3, 1]"));
        EXPECT_THAT(e.what(), HasSubstr("[20, 24]"));
        EXPECT_EQ(backend.prepared, 0) << "must fail before anything is loaded";
      }
    }
  }
}

TEST(WeightStore, ValuesBeyondFloat16AreRefusedInsteadOfBecomingInfinite) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c, {.matrix_deviation = 60000});
  FakeBackend backend;
  LoadOptions options = f32();
  EXPECT_NO_THROW(WeightStore(c, *source, backend, options));
  options.dtype = DType::kF16;
  try {
    const WeightStore store(c, *source, backend, options);
    FAIL() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_THAT(e.what(), HasSubstr("outside float16's range"));
  }
}

TEST(WeightStoreDeathTest, UnknownNamesAbort) {
  const ModelConfig c = tiny();
  const auto source = make_dummy_source(c);
  FakeBackend backend;
  const WeightStore store(c, *source, backend, f32());
  EXPECT_DEATH((void)store.weight("qkv", 2), "no weight qkv of layer 2");
}

TEST(DummySource, ValuesAreNormalReproducibleAndIndependentOfTheSlice) {
  ModelConfig c = tiny();
  c.hidden_size = 3000;  // more than one block of the generator
  const auto source = make_dummy_source(c, {.seed = 1});
  std::vector<float> all(31 * 3000);
  const std::string name = "model.embed_tokens.weight";
  source->read(name, 0, 0, TensorView(all.data(), DType::kF32, {31, 3000}));
  double sum = 0, squares = 0, fourth = 0;
  std::set<float> distinct;
  for (const float v : all) {
    sum += v;
    squares += double{v} * v;
    fourth += std::pow(double{v}, 4);
    distinct.insert(v);
  }
  const double n = static_cast<double>(all.size());
  const double variance = squares / n;
  EXPECT_NEAR(sum / n, 0, 4 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(variance), 0.02, 4 * 0.02 / std::sqrt(2 * n));
  EXPECT_NEAR(fourth / n / (variance * variance), 2.7, 0.1);  // 3 - 1.2 / 4 terms
  EXPECT_GT(distinct.size(), all.size() * 98 / 100);          // mantissas are in full use
  std::vector<float> part(2 * 500);
  source->read(name, 29, 2400, TensorView(part.data(), DType::kF32, {2, 500}));
  for (size_t i = 0; i < 500; ++i) EXPECT_EQ(part[500 + i], all[30 * 3000 + 2400 + i]);
  EXPECT_NE(element(*source, name, 0, 0), element(*make_dummy_source(c, {.seed = 2}), name, 0, 0));
  EXPECT_NE(element(*source, name, 0, 0), element(*source, "lm_head.weight", 0, 0));
  EXPECT_EQ(element(*source, "model.norm.weight", 0, 5), 1);
  EXPECT_EQ(element(*source, "model.layers.0.self_attn.q_norm.weight", 0, 5), 1);
  EXPECT_EQ(element(*source, "model.layers.0.self_attn.q_proj.bias", 0, 5), 0);
  EXPECT_THROW((void)source->shape("model.nothing"), FormatError);
}

TEST(DummySource, SixteenBitValuesAreRoundedFloats) {
  const auto source = make_dummy_source(tiny(), kAllRandom);
  std::vector<float> wide(24);
  std::vector<BFloat16> narrow(24);
  source->read("lm_head.weight", 3, 0, TensorView(wide.data(), DType::kF32, {1, 24}));
  source->read("lm_head.weight", 3, 0, TensorView(narrow.data(), DType::kBF16, {1, 24}));
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(narrow[i].bits, BFloat16(wide[i]).bits);
}

}  // namespace
}  // namespace nanoflow
