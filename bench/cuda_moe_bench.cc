// Checks and times products with the weights of several experts (grouped products), gathered and
// not, beside the ceilings of the same run. Every entry is a graph of launches over weights that no
// cache holds.
//
// Usage: cuda_moe_bench [seconds per entry]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/random_fill.h"
#include "backend/cuda/read_rate.h"
#include "tensor/dtype.h"

namespace nanoflow {
namespace {

using cuda::cuda_check;
using cuda::DeviceBuffer;

constexpr int64_t kWorkspace = int64_t{512} << 20;
constexpr Device kGpu{Device::Kind::kCuda, 0};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

float float_of(uint16_t bits, bool half) {
  if (half) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
    if (exponent == 31) return mantissa != 0 ? std::nanf("") : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
    return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

/// A grouped product: dims as in GroupedGemmArgs, `rows` pairs.
struct Product {
  int64_t rows = 0, n = 0, k = 0;
  bool half = false;
  int64_t padding = 0;  ///< elements behind the rows of a and out
  int64_t experts = 1;
  int64_t per_token = 1;
  bool gather = false;
  [[nodiscard]] double bytes() const {
    return 2.0 * static_cast<double>(n * k * experts + rows * (n + k));
  }
  [[nodiscard]] double flops() const { return 2.0 * static_cast<double>(rows * n * k); }
};

/// Random numbers that the host computes as the GPU does (cuda::fill_random).
double element(uint64_t seed, int64_t i, int exponent, bool half) {
  return static_cast<double>(float_of(cuda::random_element(seed, i, exponent, half), half));
}

class Bench {
 public:
  explicit Bench(double seconds)
      : seconds_(seconds),
        limits_(cuda::require_device(0)),
        gemm_(limits_, {}),
        workspace_(kWorkspace),
        weights_(kWeightBytes),
        activations_(int64_t{256} << 20),
        out_(int64_t{512} << 20),
        small_(int64_t{4} << 20) {
    fill(weights_.data(), kWeightBytes / 2, kWeightSeed, kWeightExponent, false);
  }

  void run() {
    check_all();
    ceilings();
    grouped();
    std::printf("%d wrong\n", wrong_);
  }
  [[nodiscard]] int wrong() const { return wrong_; }

 private:
  static constexpr int64_t kWeightBytes = int64_t{4} << 30;
  static constexpr uint64_t kWeightSeed = 1, kTokenSeed = 2;
  static constexpr int kWeightExponent = -15, kTokenExponent = -9;  // deviations 0.018 and 1.15

  void fill(void* to, int64_t count, uint64_t seed, int exponent, bool half) {
    cuda::fill_random(to, count, seed, exponent, half, stream_.get());
    cuda_check(cudaStreamSynchronize(stream_.get()), "random numbers");
  }

  // ---- operands --------------------------------------------------------------------------------

  [[nodiscard]] DType dtype(const Product& p) const { return p.half ? DType::kF16 : DType::kBF16; }
  [[nodiscard]] TensorView matrix(void* data, DType type, int64_t rows, int64_t cols,
                                  int64_t stride) const {
    return TensorView(data, type, {rows, stride}, kGpu).slice_cols(0, cols);
  }

  /// The `turn`-th weight of this shape: elsewhere in the pool.
  [[nodiscard]] PackedWeight weight(const Product& p, int turn) const {
    const int64_t elements = p.n * p.k * p.experts, pool = kWeightBytes / 2;
    const int64_t copies = std::max<int64_t>(1, pool / elements);
    PackedWeight w;
    w.data = TensorView(static_cast<uint16_t*>(weights_.data()) + turn % copies * elements,
                        dtype(p), {p.n * p.experts, p.k}, kGpu);
    w.n = p.n;
    w.k = p.k;
    w.experts = p.experts;
    return w;
  }

  [[nodiscard]] GemmArgs dense(const Product& p, int turn) const {
    GemmArgs args;
    args.out = matrix(out_.data(), dtype(p), p.rows, p.n, p.n);
    args.a = matrix(activations_.data(), dtype(p), p.rows, p.k, p.k);
    args.weight = weight(p, turn);
    return args;
  }
  [[nodiscard]] int32_t* order() const {
    return reinterpret_cast<int32_t*>(static_cast<char*>(small_.data()) + (2 << 20));
  }
  [[nodiscard]] int32_t* offsets() const {
    return reinterpret_cast<int32_t*>(static_cast<char*>(small_.data()) + 4096);
  }

  [[nodiscard]] GroupedGemmArgs experts(const Product& p, int turn) const {
    const int64_t pairs = p.rows;
    GroupedGemmArgs args;
    args.out = matrix(out_.data(), dtype(p), pairs, p.n, p.n + p.padding);
    args.a = matrix(activations_.data(), dtype(p), p.gather ? pairs / p.per_token : pairs, p.k,
                    p.k + p.padding);
    args.weight = weight(p, turn);
    args.order = TensorView(order(), DType::kI32, {pairs}, kGpu);
    args.offsets = TensorView(offsets(), DType::kI32, {p.experts + 1}, kGpu);
    args.experts_per_token = p.per_token;
    args.gather = p.gather;
    return args;
  }

  [[nodiscard]] cuda::Launch launch() const {
    return {.stream = stream_.get(),
            .device = &limits_,
            .sms = limits_.num_sms,
            .workspace = TensorView(workspace_.data(), DType::kU8, {kWorkspace}, kGpu),
            .rows = {},
            .header = nullptr};
  }

  /// Random sizes of experts that add up to `pairs`, some of them empty; returns the offsets.
  std::vector<int32_t> set_experts(const Product& p, int64_t pairs, unsigned seed, bool skewed) {
    std::mt19937 random(seed);
    std::vector<int32_t> sizes(static_cast<size_t>(p.experts), 0), offset(sizes.size() + 1, 0);
    for (int64_t i = 0; i < pairs; ++i) {
      const auto e = random() % static_cast<unsigned>(p.experts);
      ++sizes[skewed ? std::min<size_t>(e, random() % sizes.size()) : e];
    }
    for (size_t e = 0; e < sizes.size(); ++e) offset[e + 1] = offset[e] + sizes[e];
    order_.resize(static_cast<size_t>(p.rows));
    for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
    std::shuffle(order_.begin(), order_.begin() + pairs, random);
    cuda_check(cudaMemcpy(order(), order_.data(), order_.size() * 4, cudaMemcpyDefault), "order");
    cuda_check(cudaMemcpy(offsets(), offset.data(), offset.size() * 4, cudaMemcpyDefault),
               "offsets");
    return offset;
  }

  // ---- checks ----------------------------------------------------------------------------------

  struct Want {
    double value, bound;
  };

  /// a_row @ row `w_row` of the first weight, in double precision.
  [[nodiscard]] Want dot(const Product& p, int64_t a_row, int64_t w_row) const {
    double sum = 0, squares = 0;
    for (int64_t j = 0; j < p.k; ++j) {
      const double x = element(kTokenSeed, a_row * (p.k + p.padding) + j, kTokenExponent, p.half);
      const double w = element(kWeightSeed, w_row * p.k + j, kWeightExponent, p.half);
      sum += x * w;
      squares += x * x * w * w;
    }
    return {sum, std::sqrt(squares * static_cast<double>(p.k)) * 1e-6};
  }

  double read(const Product& p, int64_t row, int64_t column) const {
    const int64_t at = row * (p.n + p.padding) + column;
    return static_cast<double>(float_of(host_[static_cast<size_t>(at)], p.half));
  }

  /// Poisons the output, runs, and compares samples; rows from `pairs` on must stay poisoned.
  void compare(const char* name, const Product& p, const std::vector<int32_t>& offset,
               const std::function<void()>& work) {
    const int64_t pairs = offset.back(), stride = p.n + p.padding;
    host_.resize(static_cast<size_t>(p.rows * stride));
    cuda_check(cudaMemsetAsync(out_.data(), 0xff, host_.size() * 2, stream_.get()), "poison");
    work();
    cuda_check(cudaStreamSynchronize(stream_.get()), name);
    cuda_check(cudaMemcpy(host_.data(), out_.data(), host_.size() * 2, cudaMemcpyDefault),
               "results");
    int64_t misplaced = 0;
    for (int64_t row = 0; row < p.rows; ++row)
      for (int64_t column = 0; column < stride; ++column)
        misplaced += std::isnan(read(p, row, column)) == (row < pairs && column < p.n);
    double worst = 0;
    std::minstd_rand random(9);
    for (int i = 0; i < 200 && pairs > 0; ++i) {
      const auto row = static_cast<int64_t>(random() % static_cast<unsigned>(pairs));
      const auto column = static_cast<int64_t>(random() % static_cast<unsigned>(p.n));
      const int64_t e = std::upper_bound(offset.begin(), offset.end(), row) - offset.begin() - 1;
      const Want w =
          dot(p, p.gather ? order_[static_cast<size_t>(row)] / p.per_token : row, e * p.n + column);
      const double bound = w.bound + std::abs(w.value) / (p.half ? 2048 : 256);
      const double error = std::abs(read(p, row, column) - w.value) / bound;
      worst = error > worst || std::isnan(error) ? error : worst;
    }
    const bool ok = misplaced == 0 && worst <= 1;
    wrong_ += !ok;
    std::printf(
        "%-5s %-8s pairs %5ld of %5ld n %6ld k %6ld x%-3ld worst %.2f of bound, %ld misplaced\n",
        ok ? "ok" : "WRONG", name, static_cast<long>(pairs), static_cast<long>(p.rows),
        static_cast<long>(p.n), static_cast<long>(p.k), static_cast<long>(p.experts), worst,
        static_cast<long>(misplaced));
    std::fflush(stdout);
  }

  void fill_operands(const Product& p) {
    fill(weights_.data(), p.n * p.k * p.experts, kWeightSeed, kWeightExponent, p.half);
    fill(activations_.data(), p.rows * (p.k + p.padding), kTokenSeed, kTokenExponent, p.half);
  }

  void check(const Product& p, int64_t pairs, bool skewed) {
    fill_operands(p);
    const std::vector<int32_t> offset = set_experts(p, pairs, 5, skewed);
    if (!cuda::supports(experts(p, 0), limits_)) {
      std::printf("WRONG refused\n");
      ++wrong_;
      return;
    }
    compare("grouped", p, offset, [&] { cuda::run(experts(p, 0), launch()); });
  }

  void check_all() {
    for (const bool skewed : {false, true}) {
      check({.rows = 2, .n = 4096, .k = 4096, .experts = 8, .per_token = 2, .gather = true}, 2,
            skewed);
      check({.rows = 64, .n = 1024, .k = 4096, .experts = 8, .per_token = 2}, 50, skewed);
      check({.rows = 512,
             .n = 2048,
             .k = 768,
             .half = true,
             .experts = 128,
             .per_token = 8,
             .gather = true},
            488, skewed);
      check({.rows = 36,
             .n = 48,
             .k = 72,
             .padding = 8,
             .experts = 5,
             .per_token = 3,
             .gather = true},
            36, skewed);
      check({.rows = 3000, .n = 3072, .k = 1024, .experts = 8, .per_token = 2, .gather = true},
            2900, skewed);
    }
    check_replay();
  }

  /// One graph, replayed with other counts.
  void check_replay() {
    const Product p{
        .rows = 200, .n = 1024, .k = 4096, .experts = 8, .per_token = 2, .gather = true};
    fill_operands(p);
    set_experts(p, 200, 1, false);
    cuda_check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    cuda::run(experts(p, 0), launch());
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(stream_.get(), &graph), "ending a capture");
    const cuda::Graph exec(graph);
    for (const int64_t pairs : {200, 11, 0, 150}) {
      const std::vector<int32_t> offset =
          set_experts(p, pairs, static_cast<unsigned>(pairs), pairs == 150);
      compare("replay", p, offset,
              [&] { cuda_check(cudaGraphLaunch(exec.get(), stream_.get()), "a replay"); });
    }
  }

  // ---- times -----------------------------------------------------------------------------------

  /// Mean seconds of one work(turn) in steady state: a graph of launches, replayed.
  double time(const std::function<void(int)>& work, double seconds, int launches = 24) {
    work(0);
    cuda_check(cudaStreamSynchronize(stream_.get()), "warming up");
    cuda_check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < launches; ++i) work(i);
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamEndCapture(stream_.get(), &graph), "ending a capture");
    const cuda::Graph exec(graph);
    const auto replay = [&](int count) {
      for (int i = 0; i < count; ++i)
        cuda_check(cudaGraphLaunch(exec.get(), stream_.get()), "a replay");
    };
    replay(1);
    cuda_check(cudaStreamSynchronize(stream_.get()), "warming up");
    const double start = now();
    replay(2);
    cuda_check(cudaStreamSynchronize(stream_.get()), "warming up");
    const int count = std::max(2, static_cast<int>(seconds / ((now() - start) / 2)));
    replay(count / 2);
    cuda_check(cudaEventRecord(begin_.get(), stream_.get()), "timing");
    replay(count);
    cuda_check(cudaEventRecord(end_.get(), stream_.get()), "timing");
    cuda_check(cudaEventSynchronize(end_.get()), "timing");
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin_.get(), end_.get()), "timing");
    return static_cast<double>(ms) * 1e-3 / count / launches;
  }

  void ceilings() {
    fill(weights_.data(), kWeightBytes / 2, kWeightSeed, kWeightExponent, false);
    fill(activations_.data(), activations_.size() / 2, kTokenSeed, kTokenExponent, false);
    const Product p{.rows = 8192, .n = 8192, .k = 8192};
    flops_ = p.flops() / time([&](int i) { gemm_.run(dense(p, i), launch()); }, 2, 4);
    const double read = time(
        [&](int) {
          cuda::read_memory(weights_.data(), kWeightBytes, limits_.num_sms,
                            static_cast<float*>(small_.data()), stream_.get());
        },
        1, 4);
    bytes_ = static_cast<double>(kWeightBytes) / read;
    std::printf("%s: 8192^3 %.1f TFLOP/s sustained, memory read %.2f TB/s\n", limits_.name.c_str(),
                flops_ * 1e-12, bytes_ * 1e-12);
  }

  void report(const char* name, const Product& p, double seconds) const {
    std::printf("%-22s rows %5ld n %6ld k %6ld x%-3ld %9.1f us  %5.1f%% of gemm  %5.1f%% of read\n",
                name, static_cast<long>(p.rows), static_cast<long>(p.n), static_cast<long>(p.k),
                static_cast<long>(p.experts), seconds * 1e6, 100 * p.flops() / seconds / flops_,
                100 * p.bytes() / seconds / bytes_);
    std::fflush(stdout);
  }

  void grouped() {
    std::printf("-- experts: Mixtral 8x7B, top 2\n");
    for (const int64_t tokens :
         {1, 8, 32, 64, 128, 192, 256, 384, 512, 594, 768, 1024, 2048, 4096}) {
      for (const bool up : {true, false}) {
        Product p{.rows = tokens * 2,
                  .n = up ? 28672 : 4096,
                  .k = up ? 4096 : 14336,
                  .experts = 8,
                  .per_token = 2,
                  .gather = up};
        set_experts(p, p.rows, 7, false);
        const double s = time([&](int t) { cuda::run(experts(p, t), launch()); }, seconds_, 8);
        if (tokens == 1) p.experts = 2;  // what one token reads; both choices differ with seed 7
        report(up ? "gate_up (gathered)" : "down", p, s);
      }
    }
  }

  const double seconds_;
  const cuda::DeviceLimits limits_;
  cuda::Stream stream_;
  cuda::Event begin_{cuda::Event::Timing::kOn}, end_{cuda::Event::Timing::kOn};
  cuda::Gemm gemm_;
  DeviceBuffer workspace_, weights_, activations_, out_, small_;
  std::vector<int32_t> order_;
  std::vector<uint16_t> host_;
  double flops_ = 1, bytes_ = 1;
  int wrong_ = 0;
};

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  try {
    nanoflow::Bench bench(argc > 1 ? std::atof(argv[1]) : 0.4);
    bench.run();
    return bench.wrong() == 0 ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
