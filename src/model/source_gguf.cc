// Weights of a GGUF file under Hugging Face's names: names are translated, blocks dequantised,
// stacked experts separated, and q and k rows of "llama" files put back into the published order.
#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "formats/dequant.h"
#include "formats/gguf.h"
#include "model/convert.h"
#include "model/source.h"

namespace nanoflow {
namespace {

using NamePair = std::pair<std::string_view, std::string_view>;

constexpr std::array<NamePair, 3> kGlobalNames = {{{"model.embed_tokens.", "token_embd."},
                                                   {"model.norm.", "output_norm."},
                                                   {"lm_head.", "output."}}};
constexpr std::array<NamePair, 12> kLayerNames = {{{"input_layernorm.", "attn_norm."},
                                                   {"post_attention_layernorm.", "ffn_norm."},
                                                   {"self_attn.q_proj.", "attn_q."},
                                                   {"self_attn.k_proj.", "attn_k."},
                                                   {"self_attn.v_proj.", "attn_v."},
                                                   {"self_attn.o_proj.", "attn_output."},
                                                   {"self_attn.q_norm.", "attn_q_norm."},
                                                   {"self_attn.k_norm.", "attn_k_norm."},
                                                   {"mlp.gate_proj.", "ffn_gate."},
                                                   {"mlp.up_proj.", "ffn_up."},
                                                   {"mlp.down_proj.", "ffn_down."},
                                                   {"block_sparse_moe.gate.", "ffn_gate_inp."}}};
constexpr std::array<NamePair, 3> kExpertNames = {
    {{"w1", "ffn_gate"}, {"w2", "ffn_down"}, {"w3", "ffn_up"}}};

/// A Hugging Face name in GGUF's words. `expert` >= 0: one of several that share a tensor.
struct Translated {
  std::string name;
  int64_t expert = -1;
  std::string single_name;  ///< of the expert where they are not stacked (older files)
};

/// `text` with the first of `pairs` that it starts with replaced; empty when none fits.
template <size_t N>
std::string replace_prefix(std::string_view text, const std::array<NamePair, N>& pairs) {
  for (const auto& [from, to] : pairs)
    if (text.starts_with(from)) return fmt::format("{}{}", to, text.substr(from.size()));
  return {};
}

/// Removes "<prefix><number>." from the front of `text`; -1 when it does not start so.
int64_t take_index(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return -1;
  int64_t index = -1;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + prefix.size(), end, index);
  if (error != std::errc() || rest == end || *rest != '.') return -1;
  text.remove_prefix(static_cast<size_t>(rest + 1 - text.data()));
  return index;
}

Translated translate(const std::string& name) {
  std::string_view rest = name;
  const int64_t layer = take_index(rest, "model.layers.");
  if (layer < 0) {
    std::string global = replace_prefix(rest, kGlobalNames);
    if (global.empty()) return {name};
    return {std::move(global)};
  }
  const int64_t expert = take_index(rest, "block_sparse_moe.experts.");
  if (expert < 0) return {fmt::format("blk.{}.{}", layer, replace_prefix(rest, kLayerNames))};
  for (const auto& [from, to] : kExpertNames)
    if (rest.substr(0, from.size()) == from)
      return {fmt::format("blk.{}.{}_exps.weight", layer, to), expert,
              fmt::format("blk.{}.{}.{}.weight", layer, to, expert)};
  return {name};
}

class GgufSource final : public CheckpointSource {
 public:
  GgufSource(const std::filesystem::path& file, const ModelConfig& config)
      : file_(file),
        permuted_(file_.find_string("general.architecture") == std::string_view("llama")),
        head_dim_(config.head_dim) {}

  [[nodiscard]] std::string description() const override { return file_.name(); }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return find(name).tensor != nullptr;
  }
  [[nodiscard]] std::vector<int64_t> shape(const std::string& name) const override {
    const Part part = require(name);
    std::vector<int64_t> shape = part.tensor->shape;
    if (part.expert >= 0) shape.erase(shape.begin());
    return shape;
  }

  void read(const std::string& name, int64_t row_begin, int64_t col_begin,
            const TensorView& out) const override {
    const Part part = require(name);
    const std::vector<int64_t> dims = shape(name);
    const bool is_vector = dims.size() == 1;
    const int64_t rows = is_vector ? 1 : dims[0];
    const int64_t cols = is_vector ? dims[0] : dims[1];
    NANO_CHECK(row_begin >= 0 && row_begin + out.rows() <= rows && col_begin >= 0 &&
                   col_begin + out.cols() <= cols,
               "{} from ({}, {}) of {} [{}, {}]", out.to_string(), row_begin, col_begin, name, rows,
               cols);
    const bool permuted = is_permuted(name);
    const int64_t first_row = part.expert >= 0 ? part.expert * rows : 0;
    std::vector<float> values;
    for (int64_t row = 0; row < out.rows(); ++row) {
      const int64_t wanted = row_begin + row;
      const int64_t stored = permuted && !is_vector ? stored_row(wanted) : wanted;
      // A vector that is permuted is a bias: it is short, so all of it is read.
      const RowPart cut = permuted && is_vector ? RowPart{0, cols} : RowPart{col_begin, out.cols()};
      const float* from = dequantize_part(*part.tensor, first_row + stored, cols, cut, values);
      std::vector<float> reordered;
      if (permuted && is_vector) {
        for (int64_t i = 0; i < out.cols(); ++i)
          reordered.push_back(from[stored_row(col_begin + i)]);
        from = reordered.data();
      }
      convert_elements(from, DType::kF32, out.slice_rows(row, row + 1).data(), out.dtype(),
                       out.cols());
    }
  }

  void drop(const std::string& name) const override {
    const Part part = require(name);
    if (part.expert < 0) return file_.drop_pages(*part.tensor);
    GgufTensor own = *part.tensor;
    const size_t size = own.bytes.size() / static_cast<size_t>(own.shape[0]);
    own.bytes = own.bytes.subspan(static_cast<size_t>(part.expert) * size, size);
    file_.drop_pages(own);
  }

 private:
  struct Part {
    const GgufTensor* tensor = nullptr;
    int64_t expert = -1;  ///< >= 0: tensor is [experts, rows, cols]
  };
  struct RowPart {
    int64_t begin = 0;
    int64_t count = 0;
  };

  [[nodiscard]] Part find(const std::string& name) const {
    const Translated translated = translate(name);
    const GgufTensor* tensor = file_.find_tensor(translated.name);
    if (tensor != nullptr || translated.expert < 0) return {tensor, translated.expert};
    return {file_.find_tensor(translated.single_name), -1};
  }

  [[nodiscard]] Part require(const std::string& name) const {
    const Part part = find(name);
    if (part.tensor == nullptr)
      throw FormatError(file_.name(),
                        fmt::format("has no tensor {} ({}), which the configuration asks for",
                                    translate(name).name, name));
    const std::vector<int64_t>& dims = part.tensor->shape;
    const size_t rank = part.expert >= 0 ? 3 : dims.size();
    if (dims.size() != rank || rank < 1 || (part.expert < 0 && rank > 2) ||
        (part.expert >= 0 && part.expert >= dims[0]))
      throw FormatError(file_.name(), fmt::format("tensor {} has shape [{}]", part.tensor->name,
                                                  fmt::join(dims, ", ")));
    if (!ggml_block(part.tensor->type))
      throw FormatError(file_.name(),
                        fmt::format("tensor {} is stored as {}, which cannot be read",
                                    part.tensor->name, ggml_type_name(part.tensor->type)));
    return part;
  }

  /// llama.cpp's converter reorders the rows of q and k of Llama models, so that rotary pairs are
  /// neighbours; the other architectures keep the published order.
  [[nodiscard]] bool is_permuted(const std::string& name) const {
    return permuted_ && (name.find("self_attn.q_proj.") != std::string::npos ||
                         name.find("self_attn.k_proj.") != std::string::npos);
  }

  /// Where row `row` of the published order is: within a head, row j * D/2 + i is stored at 2 i +
  /// j.
  [[nodiscard]] int64_t stored_row(int64_t row) const {
    const int64_t half = head_dim_ / 2;
    const int64_t within = row % head_dim_;
    return row - within + 2 * (within % half) + within / half;
  }

  /// Elements of one row of a tensor with `cols` columns. Whole blocks are dequantised into
  /// `values`; the result points at the wanted ones.
  static const float* dequantize_part(const GgufTensor& tensor, int64_t row, int64_t cols,
                                      RowPart part, std::vector<float>& values) {
    const GgmlBlock block = *ggml_block(tensor.type);
    const int64_t begin = part.begin / block.elements;
    const int64_t end = (part.begin + part.count + block.elements - 1) / block.elements;
    values.resize(static_cast<size_t>((end - begin) * block.elements));
    const int64_t first_block = row * (cols / block.elements) + begin;
    dequantize(tensor.type,
               tensor.bytes.subspan(static_cast<size_t>(first_block * block.bytes),
                                    static_cast<size_t>((end - begin) * block.bytes)),
               values);
    return values.data() + (part.begin - begin * block.elements);
  }

  GgufFile file_;
  bool permuted_;
  int64_t head_dim_;
};

}  // namespace

std::unique_ptr<CheckpointSource> open_gguf_source(const std::filesystem::path& file,
                                                   const ModelConfig& config) {
  return std::make_unique<GgufSource>(file, config);
}

}  // namespace nanoflow
