// GEMM and grouped GEMM on panels: inputs are brought into the tiles' form once, then panels are
// shared out.
#include <algorithm>
#include <cstring>

#include "backend/cpu/element.h"
#include "backend/cpu/gemm_panels.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::fast {
namespace {

/// Rows as multiply_panels takes them.
struct Input {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
};

/// A stride whose rows do not fall into the same cache sets: 14 rows at a multiple of 4 KiB evict
/// each other from a first-level cache of 8 ways (measured: 176 instead of 220 GFLOP/s, bfloat16,
/// k = 2048 and 8192).
int64_t spread_stride(int64_t k, DType dtype) {
  const int64_t even = (k + 1) / 2 * 2;
  return even * dtype_size(dtype) % 1024 == 0 ? even + 64 / dtype_size(dtype) : even;
}

bool has_usable_rows(const TensorView& a, DType dtype, int64_t rows) {
  constexpr int64_t kFewRows = 4;
  const bool spread = rows <= kFewRows || a.row_stride() * dtype_size(dtype) % 1024 != 0;
  return a.dtype() == dtype && spread && (dtype == DType::kF32 || a.cols() % 2 == 0);
}

/// Copies row `from` of `a` to row `to` of `out`, converting and padding k to even.
void copy_input_row(const TensorView& a, int64_t from, const Input& out, void* memory, int64_t to) {
  const int64_t k = a.cols();
  if (out.dtype == DType::kF32) {
    load_row(a, from, static_cast<float*>(memory) + to * out.stride);
  } else {
    BFloat16* row = static_cast<BFloat16*>(memory) + to * out.stride;
    std::memcpy(static_cast<void*>(row), row_data(a, from), static_cast<size_t>(k) * 2);
    if (k % 2 != 0) row[k] = BFloat16{};
  }
}

/// `rows` rows of `a`, row i being a's row source(i), in scratch.
template <typename Source>
Input copy_input(const TensorView& a, DType dtype, int64_t rows, const Run& ctx,
                 const Source& source) {
  Input input{nullptr, dtype, spread_stride(a.cols(), dtype)};
  void* memory = ctx.scratch->take<std::byte>(rows * input.stride * dtype_size(dtype));
  const int64_t grain = 1 + (int64_t{1} << 15) / std::max<int64_t>(1, a.cols());
  parallel_chunks(ctx, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) copy_input_row(a, source(i), input, memory, i);
  });
  input.data = memory;
  return input;
}

int64_t input_bytes(int64_t rows, int64_t k, DType dtype) {
  return Scratch::bytes<std::byte>(rows * spread_stride(k, dtype) * dtype_size(dtype));
}

const float* bias_floats(const TensorView& bias, const Run& ctx) {
  if (bias.rank() == 0) return nullptr;
  float* out = ctx.scratch->take<float>(bias.rows());
  load_floats(bias.data(), bias.dtype(), bias.rows(), out);
  return out;
}

/// Panels that are worth a piece of their own: about 10 us of arithmetic or of reading weights.
int64_t panel_grain(int64_t rows, int64_t k, DType weight_dtype) {
  constexpr int64_t kFlops = int64_t{1} << 21, kBytes = int64_t{1} << 17;
  const int64_t by_flops = kFlops / std::max<int64_t>(1, 2 * rows * k * kPanelCols);
  const int64_t by_bytes =
      kBytes / std::max<int64_t>(1, panel_elements(weight_dtype, k) * dtype_size(weight_dtype));
  return std::max<int64_t>(1, std::min(by_flops, by_bytes) / 4) * 4;
}

/// Rows [first_row, first_row + p.m) are split when the panels alone give the threads too few
/// pieces.
void multiply(const PanelProduct& p, const Run& ctx) {
  constexpr int64_t kRowsPerPart = 112;  // eight tiles
  const int64_t panels = num_panels(p.n);
  if (p.m == 0 || panels == 0) return;
  const bool split_rows = panels < int64_t{16} * ctx.threads && p.m >= 2 * kRowsPerPart;
  const int64_t parts = split_rows ? p.m / kRowsPerPart : 1;
  const int64_t grain = std::min(panels, panel_grain(p.m / parts, p.k, p.weight_dtype));
  const int64_t pieces = (panels + grain - 1) / grain;
  parallel_chunks(ctx, parts * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / pieces, piece = i % pieces;
      const int64_t row = p.m * part / parts;
      PanelProduct rows = p;
      rows.m = p.m * (part + 1) / parts - row;
      rows.a = static_cast<const std::byte*>(p.a) + row * p.a_stride * dtype_size(p.a_dtype);
      rows.out = static_cast<std::byte*>(p.out) + row * p.out_stride * dtype_size(p.out_dtype);
      multiply_panels(rows, piece * grain, std::min(panels, (piece + 1) * grain));
    }
  });
}

}  // namespace

void run(const GemmArgs& args, const Run& ctx) {
  if (args.weight.layout != kPanelLayout) return reference::run(args, ctx);
  const int64_t rows = ctx.live(args.a.rows()), k = args.weight.k;
  const DType weight_dtype = args.weight.data.dtype();
  const DType dtype = panel_input_dtype(args.a.dtype(), weight_dtype);
  ctx.scratch->reserve(input_bytes(rows, k, dtype) + Scratch::bytes<float>(args.weight.n));
  const Input a = has_usable_rows(args.a, dtype, rows)
                      ? Input{args.a.data(), dtype, args.a.row_stride()}
                      : copy_input(args.a, dtype, rows, ctx, [](int64_t i) { return i; });
  multiply(PanelProduct{.a = a.data,
                        .a_dtype = dtype,
                        .a_stride = a.stride,
                        .m = rows,
                        .weight = args.weight.data.data(),
                        .weight_dtype = weight_dtype,
                        .n = args.weight.n,
                        .k = k,
                        .bias = bias_floats(args.bias, ctx),
                        .out = args.out.data(),
                        .out_dtype = args.out.dtype(),
                        .out_stride = args.out.row_stride()},
           ctx);
}

void run(const GroupedGemmArgs& args, const Run& ctx) {
  const PackedWeight& weight = args.weight;
  if (weight.layout != kPanelLayout) return reference::run(args, ctx);
  const int32_t* offsets = args.offsets.row<int32_t>(0);
  const int32_t* order = args.order.row<int32_t>(0);
  const int64_t pairs = offsets[weight.experts];
  NANO_CHECK(pairs == ctx.live(args.order.rows()), "{} sorted pairs", pairs);
  const DType weight_dtype = weight.data.dtype();
  const DType dtype = panel_input_dtype(args.a.dtype(), weight_dtype);
  ctx.scratch->reserve(input_bytes(pairs, weight.k, dtype));
  const Input a = copy_input(args.a, dtype, pairs, ctx, [&](int64_t i) {
    return args.gather ? order[i] / args.experts_per_token : i;
  });
  const int64_t panels = num_panels(weight.n);
  if (pairs == 0 || panels == 0) return;
  const int64_t matrix_bytes =
      panels * panel_elements(weight_dtype, weight.k) * dtype_size(weight_dtype);
  const int64_t grain =
      std::min<int64_t>(panels, panel_grain(1 + pairs / weight.experts, weight.k, weight_dtype));
  const int64_t pieces = (panels + grain - 1) / grain;
  parallel_chunks(ctx, weight.experts * pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t expert = i / pieces, first = i % pieces * grain;
      const int64_t row = offsets[expert];
      const PanelProduct product{
          .a = static_cast<const std::byte*>(a.data) + row * a.stride * dtype_size(dtype),
          .a_dtype = dtype,
          .a_stride = a.stride,
          .m = offsets[expert + 1] - row,
          .weight = static_cast<const std::byte*>(weight.data.data()) + expert * matrix_bytes,
          .weight_dtype = weight_dtype,
          .n = weight.n,
          .k = weight.k,
          .out = mutable_row_data(args.out, row),
          .out_dtype = args.out.dtype(),
          .out_stride = args.out.row_stride()};
      multiply_panels(product, first, std::min(panels, first + grain));
    }
  });
}

}  // namespace nanoflow::cpu::fast
