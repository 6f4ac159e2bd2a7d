// Times the CUDA backend's small ops: microseconds, the bytes that they must move, and the share of
// the device-to-device copy rate measured in the same process. Each entry is a captured graph of
// several launches over different data, replayed for half a second after a warm-up, so that neither
// launch overhead nor the L2 cache is measured.
//
// Usage: cuda_op_bench [seconds per entry]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "backend/cuda/factory.h"

namespace nanoflow {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  explicit Bench(double seconds) : seconds_(seconds), backend_(make_cuda_backend({})) {
    pattern_ = backend_->allocate_pinned(kPattern * 2);
  }

  /// Random values in [-1, 1), or token ids, repeated every 4M elements.
  TensorView fill(DType dtype, int64_t rows, int64_t cols, int64_t below = 0) {
    std::minstd_rand random(static_cast<unsigned>(rows + cols));
    const int64_t element = dtype_size(dtype), total = rows * cols * element;
    const int64_t size = std::min(total, pattern_.size());
    for (int64_t i = 0; i < size / element; ++i) {
      const float x = static_cast<float>(random() % 20001) / 10000 - 1;
      auto* at = static_cast<std::byte*>(pattern_.data()) + i * element;
      if (dtype == DType::kF32) put(at, x * 8);
      if (dtype == DType::kBF16) put(at, BFloat16(x));
      if (dtype == DType::kI32)
        put(at, static_cast<int32_t>(random() % static_cast<unsigned>(below)));
    }
    keep_.push_back(backend_->allocate(std::max<int64_t>(total, 16)));
    for (int64_t at = 0; at < total; at += size) {
      const int64_t bytes = std::min(size, total - at);
      backend_->copy(keep_.back().view(DType::kU8, {bytes}, at), pattern_.view(DType::kU8, {bytes}),
                     0);
    }
    backend_->synchronize();
    return keep_.back().view(dtype, {rows, cols});
  }
  TensorView vector(const TensorView& v) {
    return TensorView(v.data(), v.dtype(), {v.rows() * v.cols()}, v.device());
  }
  TensorView upload(const void* data, int64_t bytes, DType dtype,
                    std::initializer_list<int64_t> shape) {
    keep_.push_back(backend_->allocate(std::max<int64_t>(bytes, 16)));
    std::memcpy(pattern_.data(), data, static_cast<size_t>(bytes));
    backend_->copy(keep_.back().view(DType::kU8, {bytes}), pattern_.view(DType::kU8, {bytes}), 0);
    backend_->synchronize();
    return keep_.back().view(dtype, shape);
  }
  Backend& backend() { return *backend_; }
  void forget() { keep_.clear(); }

  /// Seconds of one launch.
  double time(const std::vector<OpArgs>& calls, int64_t rows) {
    LaunchContext context{.rows = {0, rows}};
    int64_t workspace = 1;
    for (const OpArgs& call : calls)
      workspace = std::max(workspace, backend_->workspace_bytes(call, context));
    const Buffer scratch = backend_->allocate(workspace);
    context.workspace = scratch.view(DType::kU8, {workspace});
    for (const OpArgs& call : calls) backend_->launch(call, context);  // loads the kernels
    backend_->synchronize();
    backend_->begin_capture();
    for (const OpArgs& call : calls) backend_->launch(call, context);
    const GraphId graph = backend_->end_capture();
    replay_for(graph, seconds_ / 2);
    const double begin = now();
    const int64_t count = replay_for(graph, seconds_);
    return (now() - begin) / static_cast<double>(count) / static_cast<double>(calls.size());
  }

  void report(const std::string& name, double bytes, const std::vector<OpArgs>& calls,
              int64_t rows) {
    const double seconds = time(calls, rows);
    fmt::print("{:<44}{:>9.1f} us {:>9.1f} MB {:>8.0f} GB/s {:>6.1f} %\n", name, seconds * 1e6,
               bytes * 1e-6, bytes / seconds * 1e-9, 100 * bytes / seconds / ceiling_);
    std::fflush(stdout);
  }

  void measure_ceiling() {
    const int64_t bytes = int64_t{1} << 30;
    const Buffer a = backend_->allocate(bytes), b = backend_->allocate(bytes);
    const auto copies = [&](double seconds) {
      int64_t count = 0;
      const double begin = now();
      while (now() - begin < seconds) {
        for (int i = 0; i < 8; ++i, ++count)
          backend_->copy(b.view(DType::kU8, {bytes}), a.view(DType::kU8, {bytes}), 0);
        backend_->synchronize();
      }
      return static_cast<double>(count) / (now() - begin);
    };
    (void)copies(0.5);
    ceiling_ = copies(1.0) * 2 * static_cast<double>(bytes);
    fmt::print("{}, copy in device memory {:.0f} GB/s (read + written)\n", backend_->device().name,
               ceiling_ * 1e-9);
  }

 private:
  static constexpr int64_t kPattern = int64_t{16} << 20;

  template <typename T>
  static void put(std::byte* at, T value) {
    std::memcpy(at, static_cast<const void*>(&value), sizeof(value));
  }
  int64_t replay_for(GraphId graph, double seconds) {
    int64_t count = 0;
    for (const double begin = now(); now() - begin < seconds;) {
      for (int i = 0; i < 16; ++i, ++count) backend_->replay(graph);
      backend_->synchronize();
    }
    return count;
  }

  double seconds_;
  std::unique_ptr<Backend> backend_;
  Buffer pattern_;
  std::vector<Buffer> keep_;
  double ceiling_ = 1;
};

/// `count` calls over data of their own.
std::vector<OpArgs> repeat(int count, const std::function<OpArgs()>& make) {
  std::vector<OpArgs> calls;
  calls.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) calls.push_back(make());
  return calls;
}

void bench_rows(Bench& b, int64_t rows) {
  constexpr int64_t kHidden = 4096, kInner = 14336, kVocab = 128256;
  constexpr DType kAct = DType::kBF16;
  const auto act = [&](int64_t cols) { return b.fill(kAct, rows, cols); };
  const double row_bytes = static_cast<double>(rows) * 2;
  const int copies = rows >= 1024 ? 4 : 8;
  const auto name = [&](const char* op) { return fmt::format("{} [{}]", op, rows); };
  const TensorView weight = b.vector(b.fill(kAct, 1, kHidden));
  b.report(name("rms_norm 4096"), 2 * row_bytes * kHidden,
           repeat(copies,
                  [&]() -> OpArgs {
                    return RmsNormArgs{
                        .out = act(kHidden), .x = act(kHidden), .weight = weight, .eps = 1e-5f};
                  }),
           rows);
  b.report(name("add_rms_norm 4096"), 4 * row_bytes * kHidden,
           repeat(copies,
                  [&]() -> OpArgs {
                    return AddRmsNormArgs{.out = act(kHidden),
                                          .residual = act(kHidden),
                                          .delta = act(kHidden),
                                          .weight = weight,
                                          .eps = 1e-5f};
                  }),
           rows);
  b.report(name("silu_mul 14336"), 3 * row_bytes * kInner,
           repeat(copies,
                  [&]() -> OpArgs {
                    return SiluMulArgs{.out = act(kInner), .gate_up = act(2 * kInner)};
                  }),
           rows);
  const TensorView table = b.fill(kAct, kVocab, kHidden);
  b.report(name("embed 128256x4096"), 2 * row_bytes * kHidden,
           repeat(copies,
                  [&]() -> OpArgs {
                    return EmbedArgs{.out = act(kHidden),
                                     .table = table,
                                     .token_ids = b.vector(b.fill(DType::kI32, rows, 1, kVocab))};
                  }),
           rows);
  // 32 query and 8 KV heads of 128: q and k read and written, v read, k and v appended.
  const int64_t pages = rows + 64, page = int64_t{2} * 8 * 64 * 128;
  constexpr int64_t kHeadStride = int64_t{64} * 128;
  std::vector<int32_t> slots, positions;
  for (int64_t t = 0; t < rows; ++t) {  // decodes: every row has a page of its own
    slots.push_back(static_cast<int32_t>(t * 64 + t % 64));
    positions.push_back(static_cast<int32_t>(t % 4096));
  }
  const TensorView cos_sin = b.fill(DType::kF32, 4096, 128);
  const TensorView cache = b.fill(kAct, pages, page);
  const TensorView slot_view = b.upload(slots.data(), rows * 4, DType::kI32, {rows});
  const TensorView position_view = b.upload(positions.data(), rows * 4, DType::kI32, {rows});
  b.report(name("rope_append 32/8x128"), row_bytes * 128 * (2 * 40 + 8 + 16),
           repeat(copies,
                  [&]() -> OpArgs {
                    return RopeAppendArgs{
                        .qkv = act(int64_t{48} * 128),
                        .num_q_heads = 32,
                        .num_kv_heads = 8,
                        .head_dim = 128,
                        .positions = position_view,
                        .kv_slots = slot_view,
                        .cos_sin = cos_sin,
                        .cache = {.k = cache.data(),
                                  .v = static_cast<std::byte*>(cache.data()) + page,
                                  .dtype = kAct,
                                  .num_pages = pages,
                                  .page_size = 64,
                                  .page_stride = page,
                                  .slot_stride = 128,
                                  .head_stride = kHeadStride}};
                  }),
           rows);
  b.forget();
}

void bench_moe(Bench& b, int64_t rows) {
  constexpr int64_t kHidden = 4096, kExperts = 8, kChoices = 2;
  const double bytes = static_cast<double>(rows) * kHidden * 2;
  std::vector<OpArgs> route, sort, combine;
  for (int i = 0; i < 4; ++i) {
    const TensorView ids = b.fill(DType::kI32, rows, kChoices, kExperts);
    const TensorView weights = b.fill(DType::kF32, rows, kChoices);
    const TensorView order = b.vector(b.fill(DType::kI32, rows * kChoices, 1, 2));
    const TensorView offsets = b.vector(b.fill(DType::kI32, kExperts + 1, 1, 2));
    route.push_back(MoeRouteArgs{.expert_ids = ids,
                                 .expert_weights = weights,
                                 .logits = b.fill(DType::kF32, rows, kExperts)});
    sort.push_back(MoeSortArgs{.order = order, .offsets = offsets, .expert_ids = ids});
    combine.push_back(MoeCombineArgs{.out = b.fill(DType::kBF16, rows, kHidden),
                                     .x = b.fill(DType::kBF16, rows * kChoices, kHidden),
                                     .order = order,
                                     .expert_weights = weights});
  }
  b.report(fmt::format("moe_route 8 choose 2 [{}]", rows), static_cast<double>(rows) * 48, route,
           rows);
  b.report(fmt::format("moe_sort 8 choose 2 [{}]", rows), static_cast<double>(rows) * 16, sort,
           rows);
  b.report(fmt::format("moe_combine 4096 [{}]", rows), 3 * bytes, combine, rows);
  b.forget();
}

void bench_sample(Bench& b, int64_t rows, const std::string& name, const SamplingRow& like) {
  constexpr int64_t kVocab = 128256;
  std::vector<SamplingRow> all(static_cast<size_t>(rows), like);
  for (size_t t = 0; t < all.size(); ++t) {
    all[t].seed = t;
    all[t].history_begin = static_cast<int32_t>(t * 512);
    all[t].history_output_begin = all[t].history_begin + 256;
    all[t].history_end = all[t].history_begin + 512;
  }
  SampleArgs args{.ids = b.vector(b.fill(DType::kI32, rows, 1, 2)),
                  .logprobs = b.vector(b.fill(DType::kF32, rows, 1)),
                  .ranks = b.vector(b.fill(DType::kI32, rows, 1, 2)),
                  .top_ids = b.fill(DType::kI32, rows, kMaxTopLogprobs, 2),
                  .top_logprobs = b.fill(DType::kF32, rows, kMaxTopLogprobs),
                  .logits = b.fill(DType::kF32, rows, kVocab),
                  .rows = {0, rows}};
  args.step.sampling = b.upload(all.data(), rows * static_cast<int64_t>(sizeof(SamplingRow)),
                                DType::kU8, {rows, sizeof(SamplingRow)});
  args.step.history = b.vector(b.fill(DType::kI32, rows * 512, 1, kVocab));
  args.step.last_token = b.vector(b.fill(DType::kI32, rows, 1, kVocab));
  b.report(fmt::format("sample {} [{}, 128256]", name, rows),
           static_cast<double>(rows) * kVocab * 4, {args}, rows);
  b.forget();
}

int run(double seconds) {
  Bench b(seconds);
  b.measure_ceiling();
  for (const int64_t rows : {int64_t{64}, int64_t{2048}, int64_t{8192}}) bench_rows(b, rows);
  bench_moe(b, 2048);
  bench_moe(b, 8192);
  for (const int64_t rows : {int64_t{1}, int64_t{64}, int64_t{1024}}) {
    bench_sample(b, rows, "greedy", {});
    bench_sample(b, rows, "temperature", {.temperature = 0.8f});
    bench_sample(b, rows, "top-p", {.temperature = 0.8f, .top_p = 0.9f});
    SamplingRow row{.temperature = 0.8f};
    row.top_k = 50;
    bench_sample(b, rows, "top-k 50", row);
    bench_sample(b, rows, "penalties", {.temperature = 0.8f, .repetition_penalty = 1.1f});
    row = {};
    row.num_logprobs = 20;
    bench_sample(b, rows, "greedy, 20 logprobs", row);
  }
  return 0;
}

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  try {
    return nanoflow::run(argc > 1 ? std::atof(argv[1]) : 0.4);
  } catch (const std::exception& e) {
    fmt::print(stderr, "cuda_op_bench: {}\n", e.what());
    return 1;
  }
}
