// check_shapes: every op's shapes, dtypes and strides against the comments in op_args.h.
#include <fmt/format.h>

#include "base/check.h"
#include "ops/op_args.h"

namespace nanoflow {
namespace {

bool is_act(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

/// Checks of one op; failures name the op and the operand.
class Checker {
 public:
  explicit Checker(std::string_view op) : op_(op) {}

  void matrix(const char* name, const TensorView& v, int64_t rows, int64_t cols) const {
    NANO_CHECK(v.rank() == 2 && v.rows() == rows && v.cols() == cols, "{}: {} is {}, not [{}, {}]",
               op_, name, v.to_string(), rows, cols);
    NANO_CHECK(v.row_stride() >= v.cols(), "{}: rows of {} overlap", op_, name);
    NANO_CHECK(v.data() != nullptr || v.empty(), "{}: {} has no memory", op_, name);
  }
  void act(const char* name, const TensorView& v, int64_t rows, int64_t cols) const {
    matrix(name, v, rows, cols);
    NANO_CHECK(is_act(v.dtype()), "{}: {} is {}", op_, name, v.to_string());
  }
  void typed(const char* name, const TensorView& v, DType dtype, int64_t rows, int64_t cols) const {
    matrix(name, v, rows, cols);
    NANO_CHECK(v.dtype() == dtype, "{}: {} is {}, not {}", op_, name, v.to_string(),
               dtype_name(dtype));
  }
  /// A contiguous vector of `size` elements, or of any size when `size` is -1.
  void vector(const char* name, const TensorView& v, DType dtype, int64_t size) const {
    NANO_CHECK(v.rank() == 1 && v.dtype() == dtype && (size < 0 || v.rows() == size),
               "{}: {} is {}, not {}[{}]", op_, name, v.to_string(), dtype_name(dtype), size);
    NANO_CHECK(v.is_contiguous(), "{}: {} is not contiguous", op_, name);
    NANO_CHECK(v.data() != nullptr || v.rows() == 0, "{}: {} has no memory", op_, name);
  }
  void act_vector(const char* name, const TensorView& v, int64_t size) const {
    NANO_CHECK(is_act(v.dtype()), "{}: {} is {}", op_, name, v.to_string());
    vector(name, v, v.dtype(), size);
  }
  void same_dtype(const TensorView& a, const TensorView& b) const {
    NANO_CHECK(a.dtype() == b.dtype(), "{}: {} with {}", op_, a.to_string(), b.to_string());
  }
  void weight(const PackedWeight& w, int64_t n, int64_t k) const {
    NANO_CHECK(w.n == n && w.k == k, "{}: weight [{}, {}], not [{}, {}]", op_, w.n, w.k, n, k);
    NANO_CHECK(w.experts >= 1, "{}: {} experts", op_, w.experts);
    NANO_CHECK(w.data.data() != nullptr || w.handle != nullptr || n == 0 || k == 0,
               "{}: weight has no memory", op_);
    NANO_CHECK(w.layout != 0 || (w.data.rows() == n * w.experts && w.data.cols() == k),
               "{}: row-major weight is {}, not [{}, {}]", op_, w.data.to_string(), n * w.experts,
               k);
  }
  void cache(const KvCacheView& c, int64_t heads, int64_t head_dim) const {
    NANO_CHECK((c.k != nullptr && c.v != nullptr) || c.num_pages == 0, "{}: cache has no memory",
               op_);
    NANO_CHECK(c.page_size > 0, "{}: page size {}", op_, c.page_size);
    NANO_CHECK(c.head_stride >= head_dim && c.slot_stride >= head_dim,
               "{}: cache strides (slot {}, head {}) under head_dim {}", op_, c.slot_stride,
               c.head_stride, head_dim);
    NANO_CHECK(
        c.page_stride >= (c.page_size - 1) * c.slot_stride + (heads - 1) * c.head_stride + head_dim,
        "{}: cache pages overlap (page stride {})", op_, c.page_stride);
  }
  void that(bool condition, const char* what) const { NANO_CHECK(condition, "{}: {}", op_, what); }

 private:
  std::string_view op_;
};

void check(const Checker& c, const EmbedArgs& a) {
  c.act("out", a.out, a.token_ids.rows(), a.table.cols());
  c.act("table", a.table, a.table.rows(), a.table.cols());
  c.vector("token_ids", a.token_ids, DType::kI32, -1);
  if (a.last_token.rank() != 0) c.vector("last_token", a.last_token, DType::kI32, -1);
}

void check(const Checker& c, const RmsNormArgs& a) {
  c.act("x", a.x, a.x.rows(), a.x.cols());
  c.act("out", a.out, a.x.rows(), a.x.cols());
  c.same_dtype(a.out, a.x);
  c.act_vector("weight", a.weight, a.x.cols());
}

void check(const Checker& c, const AddRmsNormArgs& a) {
  c.act("residual", a.residual, a.residual.rows(), a.residual.cols());
  c.act("delta", a.delta, a.residual.rows(), a.residual.cols());
  c.act("out", a.out, a.residual.rows(), a.residual.cols());
  c.same_dtype(a.out, a.residual);
  c.same_dtype(a.delta, a.residual);
  c.act_vector("weight", a.weight, a.residual.cols());
}

void check(const Checker& c, const GemmArgs& a) {
  c.act("a", a.a, a.a.rows(), a.a.cols());
  c.act("out", a.out, a.a.rows(), a.weight.n);
  c.that(a.out.dtype() == a.a.dtype() || a.out.dtype() == DType::kF32,
         "out is neither a's dtype nor float32");
  c.weight(a.weight, a.out.cols(), a.a.cols());
  c.that(a.weight.experts == 1, "weight has experts");
  if (a.bias.rank() != 0) c.act_vector("bias", a.bias, a.weight.n);
}

void check(const Checker& c, const RopeAppendArgs& a) {
  c.that(a.num_q_heads > 0 && a.num_kv_heads > 0 && a.num_q_heads % a.num_kv_heads == 0,
         "query heads are not a multiple of KV heads");
  c.that(a.head_dim > 0 && a.head_dim % 2 == 0, "head_dim is odd");
  const int64_t rows = a.qkv.rows();
  c.act("qkv", a.qkv, rows, (a.num_q_heads + 2 * a.num_kv_heads) * a.head_dim);
  c.vector("positions", a.positions, DType::kI32, rows);
  c.vector("kv_slots", a.kv_slots, DType::kI32, rows);
  c.typed("cos_sin", a.cos_sin, DType::kF32, a.cos_sin.rows(), a.head_dim);
  if (a.q_norm.rank() != 0) c.act_vector("q_norm", a.q_norm, a.head_dim);
  if (a.k_norm.rank() != 0) c.act_vector("k_norm", a.k_norm, a.head_dim);
  c.cache(a.cache, a.num_kv_heads, a.head_dim);
}

void check(const Checker& c, const PagedAttentionArgs& a) {
  c.that(a.num_q_heads > 0 && a.num_kv_heads > 0 && a.num_q_heads % a.num_kv_heads == 0,
         "query heads are not a multiple of KV heads");
  c.that(a.head_dim > 0 && a.window >= 0, "head_dim or window is negative");
  c.act("q", a.q, a.rows.size(), a.num_q_heads * a.head_dim);
  c.act("out", a.out, a.rows.size(), a.num_q_heads * a.head_dim);
  c.same_dtype(a.q, a.out);
  c.cache(a.cache, a.num_kv_heads, a.head_dim);
  c.vector("positions", a.step.positions, DType::kI32, -1);
  c.vector("row_seq", a.step.row_seq, DType::kI32, a.step.positions.rows());
  c.vector("kv_page_indptr", a.step.kv_page_indptr, DType::kI32, -1);
  c.vector("kv_page_indices", a.step.kv_page_indices, DType::kI32, -1);
  c.that(0 <= a.rows.begin && a.rows.begin <= a.rows.end && a.rows.end <= a.step.positions.rows(),
         "rows lie outside the step");
  c.that(a.phase == Phase::kAny || a.step.header != nullptr, "a phase needs the step's header");
}

void check(const Checker& c, const SiluMulArgs& a) {
  c.act("out", a.out, a.out.rows(), a.out.cols());
  c.act("gate_up", a.gate_up, a.out.rows(), 2 * a.out.cols());
  c.same_dtype(a.out, a.gate_up);
}

void check(const Checker& c, const MoeRouteArgs& a) {
  const int64_t rows = a.logits.rows();
  const int64_t choices = a.expert_ids.cols();
  c.typed("logits", a.logits, DType::kF32, rows, a.logits.cols());
  c.typed("expert_ids", a.expert_ids, DType::kI32, rows, choices);
  c.typed("expert_weights", a.expert_weights, DType::kF32, rows, choices);
  c.that(1 <= choices && choices <= a.logits.cols(), "more choices than experts");
}

void check(const Checker& c, const MoeSortArgs& a) {
  c.typed("expert_ids", a.expert_ids, DType::kI32, a.expert_ids.rows(), a.expert_ids.cols());
  c.vector("order", a.order, DType::kI32, a.expert_ids.rows() * a.expert_ids.cols());
  c.vector("offsets", a.offsets, DType::kI32, -1);
  c.that(a.offsets.rows() >= 2, "offsets hold no expert");
}

void check(const Checker& c, const GroupedGemmArgs& a) {
  const int64_t pairs = a.order.rows();
  c.that(a.experts_per_token >= 1 && pairs % a.experts_per_token == 0,
         "pairs are not a multiple of experts_per_token");
  c.vector("order", a.order, DType::kI32, -1);
  c.vector("offsets", a.offsets, DType::kI32, a.weight.experts + 1);
  c.act("a", a.a, a.gather ? pairs / a.experts_per_token : pairs, a.weight.k);
  c.act("out", a.out, pairs, a.weight.n);
  c.that(a.out.dtype() == a.a.dtype() || a.out.dtype() == DType::kF32,
         "out is neither a's dtype nor float32");
  c.weight(a.weight, a.out.cols(), a.a.cols());
}

void check(const Checker& c, const MoeCombineArgs& a) {
  const int64_t rows = a.expert_weights.rows();
  const int64_t pairs = rows * a.expert_weights.cols();
  c.typed("expert_weights", a.expert_weights, DType::kF32, rows, a.expert_weights.cols());
  c.vector("order", a.order, DType::kI32, pairs);
  c.act("x", a.x, pairs, a.x.cols());
  c.act("out", a.out, rows, a.x.cols());
}

void check(const Checker& c, const GatherRowsArgs& a) {
  c.act("x", a.x, a.x.rows(), a.x.cols());
  c.act("out", a.out, a.index.rows(), a.x.cols());
  c.same_dtype(a.out, a.x);
  c.vector("index", a.index, DType::kI32, -1);
}

void check(const Checker& c, const AllReduceArgs& a) {
  c.act("x", a.x, a.x.rows(), a.x.cols());
}

void check(const Checker& c, const AllGatherArgs& a) {
  c.matrix("x", a.x, a.x.rows(), a.x.cols());
  c.matrix("out", a.out, a.x.rows(), a.out.cols());
  c.same_dtype(a.out, a.x);
  c.that(a.x.cols() == 0 || a.out.cols() % a.x.cols() == 0, "out is not a multiple of x");
}

void check(const Checker& c, const SampleArgs& a) {
  const int64_t rows = a.rows.size();
  c.typed("logits", a.logits, DType::kF32, rows, a.logits.cols());
  c.that(rows == 0 || a.logits.cols() > 0, "empty vocabulary");
  c.vector("ids", a.ids, DType::kI32, rows);
  c.vector("logprobs", a.logprobs, DType::kF32, rows);
  c.vector("ranks", a.ranks, DType::kI32, rows);
  c.typed("top_ids", a.top_ids, DType::kI32, rows, kMaxTopLogprobs);
  c.typed("top_logprobs", a.top_logprobs, DType::kF32, rows, kMaxTopLogprobs);
  c.typed("sampling", a.step.sampling, DType::kU8, a.step.sampling.rows(), sizeof(SamplingRow));
  c.that(0 <= a.rows.begin && a.rows.end <= a.step.sampling.rows(), "rows lie outside the step");
}

}  // namespace

void check_shapes(const OpArgs& args) {
  const Checker checker(op_kind_name(args));
  std::visit([&](const auto& a) { check(checker, a); }, args);
}

}  // namespace nanoflow
