// Times dense products of a model's layers in power-limited steady state: the library's first
// proposal and the best of its proposals (bursts rank them wrongly), beside the sustained rates of
// an 8192^3 product and of reading memory. Some outputs of every shape are checked against a sum in
// double precision.
//
// Usage: cuda_gemm_bench [seconds per entry] [proposals] [most rows]
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_few_rows.h"
#include "backend/cuda/read_rate.h"
#include "tensor/dtype.h"

namespace nanoflow {
namespace {

using cuda::cuda_check;

constexpr int64_t kWorkspace = int64_t{32} << 20;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Matrix {
  cuda::DeviceBuffer memory;
  std::vector<uint16_t> host;  // bf16 bits
  int64_t rows = 0, cols = 0;
  [[nodiscard]] TensorView view(int64_t begin, int64_t end) const {
    return TensorView(memory.data(), DType::kBF16, {rows, cols}, Device{Device::Kind::kCuda, 0})
        .slice_rows(begin, end);
  }
};

float bf16_value(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value = 0;
  static_assert(sizeof(value) == sizeof(word));
  __builtin_memcpy(&value, &word, sizeof(value));
  return value;
}

/// N(0, deviation), full mantissa: what the GPU's power sees must look real.
Matrix random_matrix(int64_t rows, int64_t cols, float deviation, unsigned seed) {
  Matrix m{cuda::DeviceBuffer(rows * cols * 2), {}, rows, cols};
  m.host.resize(static_cast<size_t>(rows * cols));
  std::minstd_rand engine(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<uint16_t> pool(1 << 20);  // of a length that no row is a multiple of
  for (uint16_t& bits : pool) {
    const float value = normal(engine);
    uint32_t word = 0;
    __builtin_memcpy(&word, &value, sizeof(word));
    bits = static_cast<uint16_t>((word + 0x8000U) >> 16);
  }
  const size_t period = pool.size() - 17;
  for (size_t i = 0; i < m.host.size(); ++i) m.host[i] = pool[i % period];
  cuda_check(cudaMemcpy(m.memory.data(), m.host.data(), m.host.size() * 2, cudaMemcpyDefault),
             "random numbers");
  return m;
}

class Bench {
 public:
  Bench(double seconds, int proposals, int64_t max_rows)
      : seconds_(seconds),
        proposals_(proposals),
        max_rows_(max_rows),
        limits_(cuda::require_device(0)),
        gemm_(limits_, {}),
        workspace_(kWorkspace) {}

  void run() {
    const double compute = ceiling_flops();
    const double memory = ceiling_bytes();
    std::printf("%s: 8192^3 %.1f TFLOP/s sustained, memory read %.2f TB/s\n", limits_.name.c_str(),
                compute * 1e-12, memory * 1e-12);
    std::printf("%-10s %6s | %9s %6s | %9s %6s %5s | %s\n", "product", "rows", "first us", "%gemm",
                "best us", "%gemm", "which", "%memory of best");
    struct Shape {
      const char* name;
      int64_t n, k;
    };
    for (const Shape& s : {Shape{"qkv", 6144, 4096}, Shape{"o", 4096, 4096},
                           Shape{"gate_up", 28672, 4096}, Shape{"down", 4096, 14336}}) {
      const Matrix w = random_matrix(s.n, s.k, 0.02F, 1);
      const Matrix w2 = random_matrix(s.n, s.k, 0.02F, 2);  // so that the L2 cache holds neither
      for (const int64_t rows : {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
        if (rows <= max_rows_) measure(s.name, rows, s.n, s.k, {&w, &w2}, compute, memory);
      }
    }
  }

 private:
  [[nodiscard]] GemmArgs args(const Matrix& a, const Matrix& w, Matrix& out, int64_t rows) const {
    PackedWeight packed;
    packed.data = w.view(0, w.rows);
    packed.n = w.rows;
    packed.k = w.cols;
    return {.out = out.view(0, rows), .a = a.view(0, rows), .weight = packed, .bias = {}};
  }

  [[nodiscard]] cuda::Launch launch() const {
    return {.stream = stream_.get(),
            .device = &limits_,
            .sms = limits_.num_sms,
            .workspace = TensorView(workspace_.data(), DType::kU8, {kWorkspace},
                                    Device{Device::Kind::kCuda, 0}),
            .rows = {},
            .header = nullptr};
  }

  /// Mean seconds of work(i), back to back for the time of an entry after as long a warm-up.
  template <typename Work>
  double time(const Work& work) {
    work(0);
    cuda_check(cudaStreamSynchronize(stream_.get()), "warming up");
    const double probe = now();
    for (int i = 0; i < 10; ++i) work(i);
    cuda_check(cudaStreamSynchronize(stream_.get()), "warming up");
    const int count = std::max(10, static_cast<int>(seconds_ / 2 / ((now() - probe) / 10)));
    for (int i = 0; i < count; ++i) work(i);  // warm-up to the power cap
    cuda_check(cudaEventRecord(begin_.get(), stream_.get()), "timing");
    for (int i = 0; i < count; ++i) work(i);
    cuda_check(cudaEventRecord(end_.get(), stream_.get()), "timing");
    cuda_check(cudaEventSynchronize(end_.get()), "timing");
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin_.get(), end_.get()), "timing");
    return ms * 1e-3 / count;
  }

  double ceiling_flops() {
    const int64_t n = 8192;
    const Matrix a = random_matrix(n, n, 1, 3), w = random_matrix(n, n, 0.02F, 4);
    Matrix out = random_matrix(n, n, 1, 5);
    const double saved = std::exchange(seconds_, 3.0);
    const double s = time([&](int) { gemm_.run(args(a, w, out, n), launch()); });
    seconds_ = saved;
    return 2.0 * n * n * n / s;
  }

  double ceiling_bytes() {
    const int64_t bytes = int64_t{4} << 30;
    const cuda::DeviceBuffer data(bytes), sink(4);
    cuda_check(cudaMemset(data.data(), 0x35, static_cast<size_t>(bytes)), "filling memory");
    const double s = time([&](int) {
      cuda::read_memory(data.data(), bytes, limits_.num_sms, static_cast<float*>(sink.data()),
                        stream_.get());
    });
    return static_cast<double>(bytes) / s;
  }

  void measure(const char* name, int64_t rows, int64_t n, int64_t k,
               const std::vector<const Matrix*>& weights, double compute, double memory) {
    const Matrix a = random_matrix(rows, k, 1, 6);
    Matrix out = random_matrix(rows, n, 1, 7);
    const cuda::GemmShape shape{.rows = rows,
                                .n = n,
                                .k = k,
                                .a_stride = k,
                                .out_stride = n,
                                .bias = false,
                                .sms = limits_.num_sms};
    double first = 0, best = 0;
    int which = 0;
    const auto run = [&](int i) {
      gemm_.run(args(a, *weights[static_cast<size_t>(i) % weights.size()], out, rows), launch());
    };
    const std::vector<cuda::GemmAlgorithm> algorithms = gemm_.candidates(shape, proposals_);
    for (size_t i = 0; i < algorithms.size(); ++i) {
      gemm_.choose(shape, algorithms[i]);
      const double s = time(run);
      if (i == 0) first = s;
      if (i == 0 || s < best) {
        best = s;
        which = static_cast<int>(i);
      }
    }
    gemm_.choose(shape, algorithms[static_cast<size_t>(which)]);
    report(name, rows, n, k, first, best, which, compute, memory);
    run(0);
    check(name, a, *weights[0], out, rows);
    if (cuda::supports_few_rows(args(a, *weights[0], out, rows), limits_))
      measure_few_rows(name, rows, a, weights, out, memory);
  }

  void measure_few_rows(const char* name, int64_t rows, const Matrix& a,
                        const std::vector<const Matrix*>& weights, Matrix& out, double memory) {
    const auto run = [&](int i) {
      cuda::run_few_rows(args(a, *weights[static_cast<size_t>(i) % weights.size()], out, rows),
                         launch());
    };
    const double s = time(run);
    const Matrix& w = *weights[0];
    const double bytes = 2.0 * static_cast<double>(w.rows * w.cols + rows * (w.rows + w.cols));
    std::printf("%-10s %6ld | few-row kernel %9.1f us, %5.1f%% of the memory rate\n", name,
                static_cast<long>(rows), s * 1e6, 100 * bytes / s / memory);
    std::fflush(stdout);
    run(0);
    check(name, a, w, out, rows);
  }

  static void report(const char* name, int64_t rows, int64_t n, int64_t k, double first,
                     double best, int which, double compute, double memory) {
    const double flops =
        2.0 * static_cast<double>(rows) * static_cast<double>(n) * static_cast<double>(k);
    const double bytes = 2.0 * static_cast<double>(n * k + rows * k + rows * n);
    std::printf("%-10s %6ld | %9.1f %5.1f%% | %9.1f %5.1f%% %5d | %5.1f%%\n", name,
                static_cast<long>(rows), first * 1e6, 100 * flops / first / compute, best * 1e6,
                100 * flops / best / compute, which, 100 * bytes / best / memory);
    std::fflush(stdout);
  }

  void check(const char* name, const Matrix& a, const Matrix& w, const Matrix& out, int64_t rows) {
    std::vector<uint16_t> got(static_cast<size_t>(rows * w.rows));
    cuda_check(cudaStreamSynchronize(stream_.get()), "a product");
    cuda_check(cudaMemcpy(got.data(), out.memory.data(), got.size() * 2, cudaMemcpyDefault),
               "results");
    std::minstd_rand random(9);
    for (int i = 0; i < 200; ++i) {
      const auto row = static_cast<int64_t>(random() % static_cast<unsigned>(rows));
      const auto column = static_cast<int64_t>(random() % static_cast<unsigned>(w.rows));
      double want = 0, magnitude = 0;
      for (int64_t j = 0; j < w.cols; ++j) {
        const double term =
            static_cast<double>(bf16_value(a.host[static_cast<size_t>(row * w.cols + j)])) *
            static_cast<double>(bf16_value(w.host[static_cast<size_t>(column * w.cols + j)]));
        want += term;
        magnitude += std::abs(term);
      }
      const double found =
          static_cast<double>(bf16_value(got[static_cast<size_t>(row * w.rows + column)]));
      // Rounding to bf16, and float32 sums in any order.
      const double bound =
          std::abs(want) / 256 + magnitude * std::sqrt(static_cast<double>(w.cols)) * 6e-8;
      if (!(std::abs(found - want) <= bound)) {
        std::printf("WRONG: %s rows %ld: out[%ld, %ld] is %g, want %g\n", name,
                    static_cast<long>(rows), static_cast<long>(row), static_cast<long>(column),
                    found, want);
        std::exit(1);
      }
    }
  }

  double seconds_;
  const int proposals_;
  const int64_t max_rows_;
  const cuda::DeviceLimits limits_;
  cuda::Stream stream_;
  cuda::Event begin_{cuda::Event::Timing::kOn}, end_{cuda::Event::Timing::kOn};
  cuda::Gemm gemm_;
  cuda::DeviceBuffer workspace_;
};

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  try {
    nanoflow::Bench(argc > 1 ? std::atof(argv[1]) : 0.4, argc > 2 ? std::atoi(argv[2]) : 6,
                    argc > 3 ? std::atoi(argv[3]) : 4096)
        .run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return 0;
}
