// Reference GEMM and grouped GEMM: one dot product per output element.
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::reference {
namespace {

/// Weight row `row` of [experts * n, k] as float32, with its scale.
void load_weight_row(const PackedWeight& weight, int64_t row, float* out) {
  load_row(weight.data, row, out);
  if (weight.scale.rank() == 0) return;
  const float scale = weight.scale.row<float>(0)[row];
  for (int64_t i = 0; i < weight.k; ++i) out[i] *= scale;
}

std::vector<float> load_matrix(const TensorView& view, int64_t rows) {
  std::vector<float> out(static_cast<size_t>(rows * view.cols()));
  for (int64_t t = 0; t < rows; ++t) load_row(view, t, out.data() + t * view.cols());
  return out;
}

void store_element(const TensorView& out, int64_t row, int64_t col, float value) {
  store_floats(mutable_row_data(out, row) + col * dtype_size(out.dtype()), out.dtype(), 1, &value);
}

}  // namespace

void run(const GemmArgs& args, const Run& ctx) {
  const int64_t rows = ctx.live(args.a.rows());
  const int64_t k = args.weight.k;
  NANO_CHECK(args.weight.layout == 0, "reference gemm of weight layout {}", args.weight.layout);
  const std::vector<float> a = load_matrix(args.a, rows);
  const bool has_bias = args.bias.rank() != 0;
  const std::vector<float> bias = has_bias ? load_vector(args.bias) : std::vector<float>{};
  parallel_chunks(ctx, rows == 0 ? 0 : args.weight.n, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> w(static_cast<size_t>(k));
    for (int64_t col = begin; col < end; ++col) {
      load_weight_row(args.weight, col, w.data());
      for (int64_t t = 0; t < rows; ++t) {
        float sum = dot(a.data() + t * k, w.data(), k);
        if (has_bias) sum += bias[static_cast<size_t>(col)];
        store_element(args.out, t, col, sum);
      }
    }
  });
}

void run(const GroupedGemmArgs& args, const Run& ctx) {
  const int32_t* offsets = args.offsets.row<int32_t>(0);
  const int32_t* order = args.order.row<int32_t>(0);
  const PackedWeight& weight = args.weight;
  const int64_t pairs = offsets[weight.experts];
  NANO_CHECK(pairs == ctx.live(args.order.rows()), "{} sorted pairs", pairs);
  NANO_CHECK(weight.layout == 0, "reference grouped gemm of weight layout {}", weight.layout);
  const std::vector<float> a =
      load_matrix(args.a, args.gather ? pairs / args.experts_per_token : pairs);
  const auto a_row = [&](int64_t i) {
    return a.data() + (args.gather ? order[i] / args.experts_per_token : i) * weight.k;
  };
  parallel_chunks(ctx, weight.experts * weight.n, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> w(static_cast<size_t>(weight.k));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t expert = row / weight.n;
      if (offsets[expert] == offsets[expert + 1]) continue;
      load_weight_row(weight, row, w.data());
      for (int64_t i = offsets[expert]; i < offsets[expert + 1]; ++i)
        store_element(args.out, i, row % weight.n, dot(a_row(i), w.data(), weight.k));
    }
  });
}

}  // namespace nanoflow::cpu::reference
