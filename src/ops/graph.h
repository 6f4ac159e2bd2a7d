// OpGraph: a model's step as operations over symbols. It declares what each op reads and writes,
// whether it may be cut by rows and what bounds it. The model produces one; the pipeline consumes
// it; neither knows the other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/op_args.h"

namespace nanoflow {

using SymbolId = int;
using OpId = int;

/// Whether an op may be cut into nano-ops by rows.
enum class SplitBy : uint8_t { kToken, kNone };
/// Rows of a symbol that an op touches, given its own rows [b, e).
enum class Rows : uint8_t { kSame, kPrefix, kAll };  // [b, e), [0, e), [0, all)
enum class Access : uint8_t { kRead, kWrite, kReadWrite };
/// Which part of the step an op belongs to. Layer ops repeat num_layers times.
enum class Section : uint8_t { kPrologue, kLayer, kEpilogue };

enum class SymbolSpace : uint8_t {
  kScratch,   ///< placed by the plan in its arena; one copy, shared by all layers
  kExternal,  ///< a buffer given by name, the same for every plan (the residual stream, logits,
              ///< results)
  kKvCache,   ///< the layer's paged cache; rows stand for this step's appended tokens
};

/// A value of the step: `rows_per_token * rows` rows of `cols` elements.
struct Symbol {
  std::string name;
  int64_t cols = 0;
  DType dtype = DType::kBF16;
  int64_t rows_per_token = 1;
  SymbolSpace space = SymbolSpace::kScratch;
};

struct Operand {
  SymbolId symbol = -1;
  Access access = Access::kRead;
  Rows rows = Rows::kSame;
  Phase phase = Phase::kAny;
};

/// Resolves names to memory while a plan is lowered; the environment of one rank and bucket.
/// Every view is the nano-op's own rows unless it says "all".
class Binder {
 public:
  virtual ~Binder() = default;
  [[nodiscard]] virtual int layer() const = 0;
  [[nodiscard]] virtual RowRange rows() const = 0;
  [[nodiscard]] virtual TensorView view(
      SymbolId symbol) const = 0;  ///< [rows * rows_per_token, cols]
  [[nodiscard]] virtual TensorView view_all(SymbolId symbol) const = 0;  ///< every row
  [[nodiscard]] virtual PackedWeight weight(
      std::string_view name) const = 0;                      ///< this layer's, or global
  [[nodiscard]] virtual KvCacheView kv_cache() const = 0;    ///< this layer's
  [[nodiscard]] virtual const StepInputs& step() const = 0;  ///< whole batch
};

struct OpNode {
  std::string name;  ///< unique in the graph: "qkv", "attn_decode", "all_reduce_o"
  Section section = Section::kLayer;
  std::vector<Operand> operands;
  SplitBy split = SplitBy::kToken;
  Resource bound = Resource::kCompute;
  int align_group = -1;  ///< ops with the same group >= 0 must be cut at the same rows
  std::function<OpArgs(const Binder&)> bind;
};

/// Nodes are in an order in which running them one after the other is correct: the order of the
/// *meaning*. Whatever a plan does must be equivalent to: prologue, layer 0's nodes, layer 1's
/// nodes, ..., epilogue.
struct OpGraph {
  std::string name;  ///< "llama forward", "sample"
  int num_layers = 0;
  std::vector<Symbol> symbols;
  std::vector<OpNode> nodes;

  SymbolId add_symbol(Symbol symbol);
  OpId add(OpNode node);
  /// -1 when there is none.
  [[nodiscard]] OpId find_op(std::string_view name) const;
  /// NANO_CHECKs unique names, operand ids and section order.
  void validate() const;
};

/// Where a rank's weights are found while binding; the model implements it.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Weight `name` of `layer` (-1: global). Aborts on unknown names: graph and weights are built
  /// together.
  [[nodiscard]] virtual PackedWeight weight(std::string_view name, int layer) const = 0;
};

}  // namespace nanoflow
