// Times single ops of the CPU backend: time, arithmetic and memory rates, and the share of the
// ceiling measured in the same process (the 1024^3 GEMM of the same dtype, a read of 256 MiB).
// Rates are of the fastest repetition, so that they can be compared on a machine that others use.
//
// Usage: op_bench [threads]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "backend/cpu/backend.h"

namespace nanoflow {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Device memory with random contents.
class Data {
 public:
  Data(Backend& backend, DType dtype, int64_t rows, int64_t cols)
      : buffer_(backend.allocate(std::max<int64_t>(1, rows * cols * dtype_size(dtype)))),
        view_(buffer_.view(dtype, {rows, cols})) {
    std::minstd_rand random(1);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float x = static_cast<float>(random() % 2000) / 1000 - 1;
      if (dtype == DType::kF32) static_cast<float*>(buffer_.data())[i] = x;
      if (dtype == DType::kBF16) static_cast<BFloat16*>(buffer_.data())[i] = BFloat16(x);
    }
  }
  [[nodiscard]] const TensorView& view() const { return view_; }
  [[nodiscard]] void* data() const { return buffer_.data(); }

 private:
  Buffer buffer_;
  TensorView view_;
};

TensorView ints(Backend& backend, std::vector<Buffer>& keep, const std::vector<int32_t>& values) {
  const auto count = static_cast<int64_t>(values.size());
  keep.push_back(backend.allocate(4 * std::max<int64_t>(1, count)));
  std::copy(values.begin(), values.end(), static_cast<int32_t*>(keep.back().data()));
  return keep.back().view(DType::kI32, {count});
}

/// Seconds of one launch, synchronised: at least 5 and about 0.1 s of them.
struct Times {
  double best = 0;
  double median = 0;
};
Times time_op(Backend& backend, const OpArgs& args) {
  backend.launch(args, LaunchContext{});
  backend.synchronize();
  std::vector<double> times;
  for (const double start = now();
       times.size() < 5 || (now() - start < 0.1 && times.size() < 2000);) {
    const double begin = now();
    backend.launch(args, LaunchContext{});
    backend.synchronize();
    times.push_back(now() - begin);
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

struct Ceilings {
  double flops[2] = {1, 1};  ///< float32, bfloat16
  double bytes = 1;
};

void report(const std::string& name, const OpArgs& args, int64_t kv_tokens, const Times& times,
            const Ceilings& ceilings, DType dtype) {
  const OpCost cost = op_cost(args, kv_tokens, 1);
  const double flops = cost.flops / times.best, bytes = cost.memory_bytes / times.best;
  fmt::print(
      "{:44} {:10.1f} us (median {:10.1f}) {:8.1f} GFLOP/s ({:3.0f} %) {:7.1f} GB/s ({:3.0f} %)\n",
      name, times.best * 1e6, times.median * 1e6, flops * 1e-9,
      100 * flops / ceilings.flops[dtype == DType::kBF16], bytes * 1e-9,
      100 * bytes / ceilings.bytes);
  std::fflush(stdout);
}

GemmArgs gemm_args(const Data& a, const Data& out, const OwnedWeight& weight) {
  return {.out = out.view(), .a = a.view(), .weight = weight.packed};
}

Times time_gemm(Backend& backend, DType dtype, int64_t m, int64_t n, int64_t k, OpArgs& args_out) {
  const Data a(backend, dtype, m, k), w(backend, dtype, n, k), out(backend, dtype, m, n);
  const OwnedWeight weight = backend.prepare_weight(w.view(), WeightUse::kMatmul);
  args_out = gemm_args(a, out, weight);
  return time_op(backend, args_out);
}

Ceilings measure_ceilings(Backend& backend) {
  Ceilings c;
  OpArgs args;
  for (const DType dtype : {DType::kF32, DType::kBF16})
    c.flops[dtype == DType::kBF16] =
        2.0 * 1024 * 1024 * 1024 / time_gemm(backend, dtype, 1024, 1024, 1024, args).best;
  // One row: the weight is read once and nothing else matters.
  const int64_t n = 65536, k = 1024;
  c.bytes = 4.0 * n * k / time_gemm(backend, DType::kF32, 1, n, k, args).best;
  fmt::print("ceilings: float32 {:.1f}, bfloat16 {:.1f} GFLOP/s (1024^3), memory {:.1f} GB/s\n",
             c.flops[0] * 1e-9, c.flops[1] * 1e-9, c.bytes * 1e-9);
  return c;
}

void bench_gemms(Backend& backend, const Ceilings& ceilings) {
  constexpr int64_t kShapes[][2] = {{960, 576},   {3072, 576},   {576, 1536}, {49152, 576},
                                    {3072, 2048}, {16384, 2048}, {2048, 8192}};
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const auto& [n, k] : kShapes)
      for (const int64_t m : {1, 4, 16, 64, 256, 1024}) {
        if (m * n * k > int64_t{16} << 30) continue;
        OpArgs args;
        const Times seconds = time_gemm(backend, dtype, m, n, k, args);
        report(fmt::format("gemm {} m {} n {} k {}", dtype_name(dtype), m, n, k), args, 0, seconds,
               ceilings, dtype);
      }
}

struct AttentionShape {
  int64_t q_heads, kv_heads, dim, seqs, length, rows;  ///< rows per sequence
};

void bench_attention(Backend& backend, const Ceilings& ceilings, DType dtype,
                     const AttentionShape& s) {
  const KvLayout layout = backend.kv_layout({s.kv_heads, s.dim, dtype});
  const int64_t pages = (s.length + layout.page_size - 1) / layout.page_size * s.seqs;
  const Data cache(backend, dtype, pages, layout.bytes_per_page / dtype_size(dtype));
  const int64_t rows = s.seqs * s.rows;
  std::vector<Buffer> keep;
  std::vector<int32_t> positions, row_seq, indptr = {0}, indices(static_cast<size_t>(pages));
  std::iota(indices.begin(), indices.end(), 0);
  for (int64_t i = 0; i < s.seqs; ++i) {
    indptr.push_back(static_cast<int32_t>(pages / s.seqs * (i + 1)));
    for (int64_t r = 0; r < s.rows; ++r) {
      positions.push_back(static_cast<int32_t>(s.length - s.rows + r));
      row_seq.push_back(static_cast<int32_t>(i));
    }
  }
  StepHeader header{.num_rows = static_cast<int32_t>(rows)};
  header.num_decode_rows = s.rows == 1 ? header.num_rows : 0;
  const Data q(backend, dtype, rows, s.q_heads * s.dim),
      out(backend, dtype, rows, s.q_heads * s.dim);
  PagedAttentionArgs args{
      .out = out.view(),
      .q = q.view(),
      .num_q_heads = s.q_heads,
      .num_kv_heads = s.kv_heads,
      .head_dim = s.dim,
      .cache = {.k = cache.data(),
                .v = static_cast<std::byte*>(cache.data()) + layout.bytes_per_page / 2,
                .dtype = dtype,
                .num_pages = pages,
                .page_size = layout.page_size,
                .page_stride = layout.page_stride,
                .slot_stride = layout.slot_stride,
                .head_stride = layout.head_stride},
      .rows = {0, rows},
      .phase = s.rows == 1 ? Phase::kDecode : Phase::kPrefill,
      .scale = 0.125f};
  args.step.header = &header;
  args.step.positions = ints(backend, keep, positions);
  args.step.row_seq = ints(backend, keep, row_seq);
  args.step.kv_page_indptr = ints(backend, keep, indptr);
  args.step.kv_page_indices = ints(backend, keep, indices);
  int64_t kv_tokens = 0;
  for (const int32_t p : positions) kv_tokens += p + 1;
  report(fmt::format("{} {} heads {}/{}x{} {} x {}", s.rows == 1 ? "decode" : "prefill",
                     dtype_name(dtype), s.q_heads, s.kv_heads, s.dim, s.seqs, s.length),
         args, kv_tokens, time_op(backend, args), ceilings, dtype);
}

void bench_row_ops(Backend& backend, const Ceilings& ceilings, int64_t rows) {
  const DType dtype = DType::kBF16;
  const Data x(backend, dtype, rows, 2048), y(backend, dtype, rows, 2048),
      w(backend, dtype, 1, 2048);
  const TensorView weight(w.data(), dtype, {2048});
  const OpArgs norm = AddRmsNormArgs{.out = y.view(),
                                     .residual = x.view(),
                                     .delta = y.view(),
                                     .weight = weight,
                                     .eps = 1e-5f,
                                     .replace = true};
  report(fmt::format("add_rms_norm {} x 2048", rows), norm, 0, time_op(backend, norm), ceilings,
         dtype);
  const Data gate_up(backend, dtype, rows, 16384), act(backend, dtype, rows, 8192);
  const OpArgs silu = SiluMulArgs{.out = act.view(), .gate_up = gate_up.view()};
  report(fmt::format("silu_mul {} x 8192", rows), silu, 0, time_op(backend, silu), ceilings, dtype);
}

void bench_sampling(Backend& backend, const Ceilings& ceilings, int64_t rows,
                    const SamplingRow& row, const char* name) {
  const int64_t vocab = 128256;
  const Data logits(backend, DType::kF32, rows, vocab), logprobs(backend, DType::kF32, rows, 1);
  const Data top(backend, DType::kF32, rows, kMaxTopLogprobs);
  std::vector<Buffer> keep;
  const std::vector<int32_t> zeros(static_cast<size_t>(rows * kMaxTopLogprobs));
  const TensorView top_ids = ints(backend, keep, zeros);
  SampleArgs args{.ids = ints(backend, keep, std::vector<int32_t>(static_cast<size_t>(rows))),
                  .logprobs = TensorView(logprobs.data(), DType::kF32, {rows}),
                  .ranks = ints(backend, keep, std::vector<int32_t>(static_cast<size_t>(rows))),
                  .top_ids = TensorView(top_ids.data(), DType::kI32, {rows, kMaxTopLogprobs}),
                  .top_logprobs = top.view(),
                  .logits = logits.view(),
                  .rows = {0, rows}};
  std::vector<SamplingRow> sampling(static_cast<size_t>(rows), row);
  args.step.sampling = TensorView(sampling.data(), DType::kU8, {rows, sizeof(SamplingRow)});
  report(fmt::format("sample {} rows of {}: {}", rows, vocab, name), args, 0,
         time_op(backend, args), ceilings, DType::kF32);
}

int run(int threads) {
  CpuBackend backend({.threads = threads});
  fmt::print("{}\n", backend.device().name);
  const Ceilings ceilings = measure_ceilings(backend);
  bench_gemms(backend, ceilings);
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const AttentionShape& s : {AttentionShape{9, 3, 64, 1, 1024, 1},
                                    {9, 3, 64, 64, 1024, 1},
                                    {32, 8, 64, 32, 2048, 1},
                                    {32, 8, 128, 16, 2048, 1},
                                    {9, 3, 64, 1, 1024, 1024},
                                    {32, 8, 64, 1, 2048, 512}})
      bench_attention(backend, ceilings, dtype, s);
  for (const int64_t rows : {1, 64, 512}) bench_row_ops(backend, ceilings, rows);
  for (const int64_t rows : {1, 32}) {
    bench_sampling(backend, ceilings, rows, {}, "greedy");
    bench_sampling(backend, ceilings, rows, {.temperature = 1}, "temperature");
    bench_sampling(backend, ceilings, rows, {.temperature = 1, .top_p = 0.9f}, "top-p");
    bench_sampling(backend, ceilings, rows, {.temperature = 1, .top_k = 50}, "top-k");
    bench_sampling(backend, ceilings, rows, {.num_logprobs = 5}, "greedy, 5 logprobs");
  }
  return 0;
}

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  try {
    return nanoflow::run(argc > 1 ? std::atoi(argv[1]) : 0);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "op_bench: %s\n", e.what());
    return 1;
  }
}
