#include "model/weight_plan.h"

#include <algorithm>

#include <fmt/format.h>

namespace nanoflow {
namespace {

/// Builds the specs of one rank; the names are those of Hugging Face checkpoints.
class Planner {
 public:
  Planner(const ModelConfig& config, int tp_rank, int tp_size)
      : c_(config), rank_(tp_rank), tp_(tp_size) {}

  std::vector<WeightSpec> plan() {
    add_globals();
    for (int layer = 0; layer < c_.num_hidden_layers; ++layer) {
      layer_ = layer;
      prefix_ = fmt::format("model.layers.{}.", layer);
      add_attention();
      if (c_.is_moe()) {
        add_experts();
      } else {
        add_dense_ffn();
      }
    }
    return std::move(specs_);
  }

 private:
  WeightSpec& add(std::string name, WeightUse use, int64_t rows, int64_t cols) {
    specs_.push_back(
        {.name = std::move(name), .layer = layer_, .use = use, .rows = rows, .cols = cols});
    return specs_.back();
  }

  /// A replicated vector.
  void add_vector(std::string name, const std::string& tensor, int64_t size) {
    add(std::move(name), WeightUse::kVector, 1, size).pieces = {
        {.tensor = tensor, .shape = {size}, .rows = 1, .cols = size}};
  }

  /// Rows [begin, begin + rows) of a [total, cols] tensor, below what `spec` has so far.
  static void append_rows(WeightSpec& spec, const std::string& tensor, int64_t total, int64_t begin,
                          int64_t rows) {
    int64_t out_row = 0;
    for (const WeightPiece& piece : spec.pieces) out_row += piece.rows;
    spec.pieces.push_back({.tensor = tensor,
                           .shape = {total, spec.cols},
                           .row_begin = begin,
                           .rows = rows,
                           .out_row = out_row,
                           .cols = spec.cols});
  }

  /// Elements [begin, begin + size) of a [total] tensor, behind what `spec` has so far.
  static void append_elements(WeightSpec& spec, const std::string& tensor, int64_t total,
                              int64_t begin, int64_t size) {
    int64_t out_col = 0;
    for (const WeightPiece& piece : spec.pieces) out_col += piece.cols;
    spec.pieces.push_back({.tensor = tensor,
                           .shape = {total},
                           .col_begin = begin,
                           .rows = 1,
                           .out_col = out_col,
                           .cols = size});
  }

  /// This rank's columns of a [rows, total_cols] tensor, below what `spec` has so far.
  void append_cols(WeightSpec& spec, const std::string& tensor, int64_t rows) const {
    int64_t out_row = 0;
    for (const WeightPiece& piece : spec.pieces) out_row += piece.rows;
    spec.pieces.push_back({.tensor = tensor,
                           .shape = {rows, spec.cols * tp_},
                           .col_begin = rank_ * spec.cols,
                           .rows = rows,
                           .out_row = out_row,
                           .cols = spec.cols});
  }

  /// The bias of a row-parallel matrix: ranks are summed, so it may be added on one of them only.
  void add_summed_bias(std::string name, const std::string& tensor) {
    if (rank_ == 0) {
      add_vector(std::move(name), tensor, c_.hidden_size);
    } else {
      add(std::move(name), WeightUse::kVector, 1, c_.hidden_size);
    }
  }

  void add_globals() {
    const std::string embed = "model.embed_tokens.weight";
    append_rows(add("embed", WeightUse::kEmbedding, c_.vocab_size, c_.hidden_size), embed,
                c_.vocab_size, 0, c_.vocab_size);
    const int64_t rows = c_.vocab_rows(tp_);
    const int64_t begin = std::min(rank_ * rows, c_.vocab_size);
    const int64_t live = std::min(rows, c_.vocab_size - begin);
    WeightSpec& head = add("lm_head", WeightUse::kMatmul, rows, c_.hidden_size);
    if (live > 0)
      append_rows(head, c_.tie_word_embeddings ? embed : "lm_head.weight", c_.vocab_size, begin,
                  live);
    add_vector("final_norm", "model.norm.weight", c_.hidden_size);
  }

  /// First of this rank's KV heads; with fewer heads than ranks, several ranks hold the same one.
  [[nodiscard]] int64_t first_kv_head() const { return rank_ * c_.num_key_value_heads / tp_; }

  void add_attention() {
    const std::string attn = prefix_ + "self_attn.";
    const int64_t q = c_.q_rows(tp_);
    const int64_t kv = c_.kv_rows(tp_);
    const int64_t q_begin = rank_ * q;
    const int64_t kv_begin = first_kv_head() * c_.head_dim;
    add_vector("attn_norm", prefix_ + "input_layernorm.weight", c_.hidden_size);
    WeightSpec& qkv = add("qkv", WeightUse::kMatmul, c_.qkv_rows(tp_), c_.hidden_size);
    append_rows(qkv, attn + "q_proj.weight", c_.q_rows(1), q_begin, q);
    append_rows(qkv, attn + "k_proj.weight", c_.kv_rows(1), kv_begin, kv);
    append_rows(qkv, attn + "v_proj.weight", c_.kv_rows(1), kv_begin, kv);
    if (c_.qkv_bias) {
      WeightSpec& bias = add("qkv_bias", WeightUse::kVector, 1, c_.qkv_rows(tp_));
      append_elements(bias, attn + "q_proj.bias", c_.q_rows(1), q_begin, q);
      append_elements(bias, attn + "k_proj.bias", c_.kv_rows(1), kv_begin, kv);
      append_elements(bias, attn + "v_proj.bias", c_.kv_rows(1), kv_begin, kv);
    }
    if (c_.qk_norm) {
      add_vector("q_norm", attn + "q_norm.weight", c_.head_dim);
      add_vector("k_norm", attn + "k_norm.weight", c_.head_dim);
    }
    append_cols(add("o", WeightUse::kMatmul, c_.hidden_size, q), attn + "o_proj.weight",
                c_.hidden_size);
    if (c_.o_bias) add_summed_bias("o_bias", attn + "o_proj.bias");
    add_vector("ffn_norm", prefix_ + "post_attention_layernorm.weight", c_.hidden_size);
  }

  void add_dense_ffn() {
    const std::string mlp = prefix_ + "mlp.";
    const int64_t total = c_.intermediate_size;
    const int64_t rows = c_.ffn_rows(tp_);
    WeightSpec& gate_up = add("gate_up", WeightUse::kMatmul, 2 * rows, c_.hidden_size);
    append_rows(gate_up, mlp + "gate_proj.weight", total, rank_ * rows, rows);
    append_rows(gate_up, mlp + "up_proj.weight", total, rank_ * rows, rows);
    if (c_.mlp_bias) {
      WeightSpec& bias = add("gate_up_bias", WeightUse::kVector, 1, 2 * rows);
      append_elements(bias, mlp + "gate_proj.bias", total, rank_ * rows, rows);
      append_elements(bias, mlp + "up_proj.bias", total, rank_ * rows, rows);
    }
    append_cols(add("down", WeightUse::kMatmul, c_.hidden_size, rows), mlp + "down_proj.weight",
                c_.hidden_size);
    if (c_.mlp_bias) add_summed_bias("down_bias", mlp + "down_proj.bias");
  }

  /// Mixtral's names: w1 is the gate, w3 the up and w2 the down projection.
  void add_experts() {
    const std::string moe = prefix_ + "block_sparse_moe.";
    const int64_t experts = c_.num_local_experts;
    const int64_t total = c_.intermediate_size;
    const int64_t rows = c_.ffn_rows(tp_);
    append_rows(add("router", WeightUse::kMatmul, experts, c_.hidden_size), moe + "gate.weight",
                experts, 0, experts);
    WeightSpec& gate_up =
        add("experts_gate_up", WeightUse::kExperts, experts * 2 * rows, c_.hidden_size);
    gate_up.experts = experts;
    for (int64_t e = 0; e < experts; ++e) {
      const std::string expert = fmt::format("{}experts.{}.", moe, e);
      append_rows(gate_up, expert + "w1.weight", total, rank_ * rows, rows);
      append_rows(gate_up, expert + "w3.weight", total, rank_ * rows, rows);
    }
    WeightSpec& down = add("experts_down", WeightUse::kExperts, experts * c_.hidden_size, rows);
    down.experts = experts;
    for (int64_t e = 0; e < experts; ++e)
      append_cols(down, fmt::format("{}experts.{}.w2.weight", moe, e), c_.hidden_size);
  }

  const ModelConfig& c_;
  const int64_t rank_;
  const int tp_;
  int layer_ = -1;
  std::string prefix_;
  std::vector<WeightSpec> specs_;
};

}  // namespace

std::vector<WeightSpec> plan_weights(const ModelConfig& config, int tp_rank, int tp_size) {
  config.validate_tp(tp_size);
  NANO_CHECK(tp_rank >= 0 && tp_rank < tp_size, "tp_rank {} of {}", tp_rank, tp_size);
  return Planner(config, tp_rank, tp_size).plan();
}

}  // namespace nanoflow
