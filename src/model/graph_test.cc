#include "model/graph.h"

#include <map>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow {
namespace {

ModelConfig tiny(const std::string& architecture) {
  ModelConfig c;
  c.architecture = architecture;
  c.hidden_size = 24;
  c.intermediate_size = 20;
  c.num_hidden_layers = 3;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 31;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-5;
  c.rope_theta = 10000;
  c.sliding_window = 9;
  c.layer_slides = {false, true, true};
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = true;
  if (architecture == "MixtralForCausalLM") {
    c.num_local_experts = 4;
    c.num_experts_per_tok = 2;
  }
  return c;
}

/// Gives every symbol, weight and step array memory of its own, and remembers what bind() asked
/// for.
class RecordingBinder final : public Binder {
 public:
  RecordingBinder(const OpGraph& graph, int layer, RowRange rows, int64_t total)
      : graph_(graph), layer_(layer), rows_(rows), total_(total) {
    for (const Symbol& s : graph.symbols)
      memory_.emplace_back(
          static_cast<size_t>(total * s.rows_per_token * s.cols * dtype_size(s.dtype)));
    for (TensorView* v :
         {&step_.token_ids, &step_.positions, &step_.row_seq, &step_.kv_slots, &step_.sample_rows,
          &step_.last_token, &step_.q_indptr, &step_.kv_page_indptr, &step_.kv_page_indices})
      *v = TensorView(ints_.data(), DType::kI32, {total});
    step_.header = &header_;
    step_.sampling = TensorView(sampling_.data(), DType::kU8, {total, sizeof(SamplingRow)});
  }

  [[nodiscard]] int layer() const override { return layer_; }
  [[nodiscard]] RowRange rows() const override { return rows_; }
  [[nodiscard]] TensorView view(SymbolId id) const override {
    touched[id] = Rows::kSame;
    const int64_t n = graph_.symbols[static_cast<size_t>(id)].rows_per_token;
    return all(id).slice_rows(rows_.begin * n, rows_.end * n);
  }
  [[nodiscard]] TensorView view_all(SymbolId id) const override {
    touched[id] = Rows::kAll;
    return all(id);
  }
  [[nodiscard]] PackedWeight weight(std::string_view name) const override {
    weights.insert(std::string(name));
    return shapes.at(std::string(name));
  }
  [[nodiscard]] KvCacheView kv_cache() const override {
    uses_cache = true;
    static char cache[4096];
    return {cache, cache + 2048, DType::kF32, 1, 4, 256, 8, 32};
  }
  [[nodiscard]] const StepInputs& step() const override { return step_; }

  /// Symbol whose memory holds `view`, or -1.
  [[nodiscard]] SymbolId owner(const TensorView& view) const {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const auto* begin = memory_[i].data();
      if (view.data() >= begin && view.data() < begin + memory_[i].size())
        return static_cast<SymbolId>(i);
    }
    return -1;
  }

  mutable std::map<SymbolId, Rows> touched;
  mutable std::set<std::string> weights;
  mutable bool uses_cache = false;
  std::map<std::string, PackedWeight> shapes;

 private:
  [[nodiscard]] TensorView all(SymbolId id) const {
    const Symbol& s = graph_.symbols[static_cast<size_t>(id)];
    return {memory_[static_cast<size_t>(id)].data(), s.dtype, {total_ * s.rows_per_token, s.cols}};
  }

  const OpGraph& graph_;
  int layer_;
  RowRange rows_;
  int64_t total_;
  mutable std::vector<std::vector<char>> memory_;
  mutable std::vector<int32_t> ints_ = std::vector<int32_t>(64);
  mutable std::vector<char> sampling_ = std::vector<char>(64 * sizeof(SamplingRow));
  StepHeader header_;
  StepInputs step_;
};

/// Weights as a rank of `tp` has them: shapes from the configuration, bytes shared.
std::map<std::string, PackedWeight> weight_shapes(const ModelConfig& c, int tp) {
  static float bytes[1 << 16];
  std::map<std::string, PackedWeight> out;
  const auto matrix = [&](const char* name, int64_t n, int64_t k, int64_t experts = 1) {
    out[name] = {TensorView(bytes, DType::kF32, {n * experts, k}), n, k, experts};
  };
  const auto vector = [&](const char* name, int64_t n) {
    out[name] = {TensorView(bytes, DType::kF32, {n}), n, 1, 1};
  };
  const int64_t h = c.hidden_size;
  const int64_t i = c.ffn_rows(tp);
  for (const char* name : {"attn_norm", "ffn_norm", "final_norm", "o_bias", "down_bias"})
    vector(name, h);
  vector("q_norm", c.head_dim);
  vector("k_norm", c.head_dim);
  vector("qkv_bias", c.qkv_rows(tp));
  vector("gate_up_bias", 2 * i);
  matrix("embed", c.vocab_size, h);
  matrix("lm_head", c.vocab_rows(tp), h);
  matrix("qkv", c.qkv_rows(tp), h);
  matrix("o", h, c.q_rows(tp));
  matrix("gate_up", 2 * i, h);
  matrix("down", h, i);
  matrix("router", c.num_local_experts, h);
  matrix("experts_gate_up", 2 * i, h, std::max<int64_t>(1, c.num_local_experts));
  matrix("experts_down", h, i, std::max<int64_t>(1, c.num_local_experts));
  out["cos_sin"] = {TensorView(bytes, DType::kF32, {64, c.head_dim}), 64, c.head_dim, 1};
  return out;
}

struct Written {
  std::vector<TensorView> operator()(const EmbedArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const RmsNormArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const AddRmsNormArgs& a) const { return {a.out, a.residual}; }
  std::vector<TensorView> operator()(const GemmArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const RopeAppendArgs& a) const { return {a.qkv}; }
  std::vector<TensorView> operator()(const PagedAttentionArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const SiluMulArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const MoeRouteArgs& a) const {
    return {a.expert_ids, a.expert_weights};
  }
  std::vector<TensorView> operator()(const MoeSortArgs& a) const { return {a.order, a.offsets}; }
  std::vector<TensorView> operator()(const GroupedGemmArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const MoeCombineArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const GatherRowsArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const AllReduceArgs& a) const { return {a.x}; }
  std::vector<TensorView> operator()(const AllGatherArgs& a) const { return {a.out}; }
  std::vector<TensorView> operator()(const SampleArgs& a) const {
    return {a.ids, a.logprobs, a.ranks, a.top_ids, a.top_logprobs, a.logits};
  }
};

/// Everything that bind() touches is declared, with the right access, and nothing else is.
void expect_declared(const OpGraph& graph, const ModelConfig& config, int tp) {
  for (const OpNode& node : graph.nodes) {
    SCOPED_TRACE(graph.name + " " + node.name);
    RecordingBinder binder(graph, node.section == Section::kLayer ? 1 : -1, {3, 7}, 10);
    binder.shapes = weight_shapes(config, tp);
    const OpArgs args = node.bind(binder);
    check_shapes(args);
    std::set<SymbolId> written;
    for (const TensorView& view : std::visit(Written{}, args)) written.insert(binder.owner(view));
    std::set<SymbolId> declared;
    for (const Operand& operand : node.operands) {
      const Symbol& symbol = graph.symbols[static_cast<size_t>(operand.symbol)];
      SCOPED_TRACE(symbol.name);
      EXPECT_TRUE(declared.insert(operand.symbol).second) << "declared twice";
      if (symbol.space == SymbolSpace::kKvCache) {
        EXPECT_TRUE(binder.uses_cache);
        const bool appends = std::holds_alternative<RopeAppendArgs>(args);
        EXPECT_EQ(operand.access, appends ? Access::kWrite : Access::kRead);
        continue;
      }
      ASSERT_TRUE(binder.touched.contains(operand.symbol)) << "declared but not used";
      EXPECT_EQ(binder.touched[operand.symbol], operand.rows);
      EXPECT_EQ(operand.access != Access::kRead, written.contains(operand.symbol));
    }
    for (const auto& [symbol, rows] : binder.touched)
      EXPECT_TRUE(declared.contains(symbol)) << "uses undeclared " << symbol;
  }
}

class EveryFamily : public testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(EveryFamily, DeclaresWhatItTouches) {
  const auto& [architecture, tp] = GetParam();
  const ModelConfig config = tiny(architecture);
  expect_declared(build_forward_graph(config, tp, DType::kF32), config, tp);
  expect_declared(build_sample_graph(config, tp, DType::kF32), config, tp);
}

TEST_P(EveryFamily, EveryScratchSymbolIsWrittenBeforeItIsRead) {
  const auto& [architecture, tp] = GetParam();
  const OpGraph graph = build_forward_graph(tiny(architecture), tp, DType::kF32);
  std::set<SymbolId> written;
  for (const OpNode& node : graph.nodes) {
    for (const Operand& o : node.operands) {
      const bool scratch =
          graph.symbols[static_cast<size_t>(o.symbol)].space == SymbolSpace::kScratch;
      if (scratch && o.access != Access::kWrite) {
        EXPECT_TRUE(written.contains(o.symbol)) << node.name << " reads what nobody wrote";
      }
    }
    for (const Operand& o : node.operands)
      if (o.access != Access::kRead) written.insert(o.symbol);
  }
}

std::string family_and_tp(const testing::TestParamInfo<std::tuple<std::string, int>>& test) {
  return std::get<0>(test.param) + "_tp" + std::to_string(std::get<1>(test.param));
}

INSTANTIATE_TEST_SUITE_P(All, EveryFamily,
                         testing::Combine(testing::ValuesIn(supported_architectures()),
                                          testing::Values(1, 2)),
                         family_and_tp);

std::vector<std::string> op_names(const OpGraph& graph) {
  std::vector<std::string> names;
  for (const OpNode& node : graph.nodes) names.push_back(node.name);
  return names;
}

TEST(ForwardGraph, OpsAreThoseOfTheHeaderInItsOrder) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(op_names(build_forward_graph(tiny("LlamaForCausalLM"), 1, DType::kBF16)),
            (Names{"embed", "attn_norm", "qkv", "rope_append", "attn_decode", "attn_prefill", "o",
                   "ffn_norm", "gate_up", "silu_mul", "down"}));
  EXPECT_EQ(op_names(build_forward_graph(tiny("MixtralForCausalLM"), 2, DType::kBF16)),
            (Names{"embed", "attn_norm", "qkv", "rope_append", "attn_decode", "attn_prefill", "o",
                   "all_reduce_o", "ffn_norm", "router", "moe_route", "moe_sort", "experts_gate_up",
                   "experts_silu_mul", "experts_down", "moe_combine", "all_reduce_down"}));
  EXPECT_EQ(op_names(build_sample_graph(tiny("LlamaForCausalLM"), 2, DType::kBF16)),
            (Names{"gather_residual", "gather_delta", "final_norm", "lm_head", "all_gather_logits",
                   "sample"}));
}

TEST(ForwardGraph, PhasesOfAttentionDoNotConflict) {
  const OpGraph graph = build_forward_graph(tiny("LlamaForCausalLM"), 1, DType::kBF16);
  const auto& decode = graph.nodes[static_cast<size_t>(graph.find_op("attn_decode"))];
  const auto& prefill = graph.nodes[static_cast<size_t>(graph.find_op("attn_prefill"))];
  for (const Operand& o : decode.operands) EXPECT_EQ(o.phase, Phase::kDecode);
  for (const Operand& o : prefill.operands) EXPECT_EQ(o.phase, Phase::kPrefill);
  EXPECT_EQ(decode.bound, Resource::kMemory);
  EXPECT_EQ(prefill.bound, Resource::kCompute);
}

TEST(ForwardGraph, WindowAndFirstLayerFollowTheLayerThatIsBound) {
  const ModelConfig config = tiny("Qwen2ForCausalLM");
  const OpGraph graph = build_forward_graph(config, 1, DType::kF32);
  const auto bind = [&](const char* op, int layer) {
    RecordingBinder binder(graph, layer, {0, 4}, 4);
    binder.shapes = weight_shapes(config, 1);
    return graph.nodes[static_cast<size_t>(graph.find_op(op))].bind(binder);
  };
  EXPECT_EQ(std::get<PagedAttentionArgs>(bind("attn_decode", 0)).window, 0);
  EXPECT_EQ(std::get<PagedAttentionArgs>(bind("attn_decode", 1)).window, 9);
  EXPECT_TRUE(std::get<AddRmsNormArgs>(bind("attn_norm", 0)).replace);
  EXPECT_FALSE(std::get<AddRmsNormArgs>(bind("attn_norm", 1)).replace);
  EXPECT_FALSE(std::get<AddRmsNormArgs>(bind("ffn_norm", 0)).replace);
}

TEST(ForwardGraph, ExpertsAreCutTogether) {
  const OpGraph graph = build_forward_graph(tiny("MixtralForCausalLM"), 1, DType::kBF16);
  for (const OpNode& node : graph.nodes) {
    const bool sorted =
        node.name == "moe_sort" || node.name == "moe_combine" || node.name.starts_with("experts_");
    EXPECT_EQ(node.align_group >= 0, sorted) << node.name;
  }
}

TEST(ForwardGraph, RefusesWhatItCannotBuild) {
  ModelConfig config = tiny("LlamaForCausalLM");
  EXPECT_THROW(build_forward_graph(config, 3, DType::kBF16), ConfigError);
  EXPECT_THROW(build_sample_graph(config, 0, DType::kBF16), ConfigError);
  config.architecture = "FalconForCausalLM";
  EXPECT_THROW(build_forward_graph(config, 1, DType::kBF16), ConfigError);
}

}  // namespace
}  // namespace nanoflow
