#include "backend/cuda/gemm_tuner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "backend/cuda/random_fill.h"

namespace nanoflow::cuda {
namespace {

constexpr int64_t kWeightBytes = int64_t{4} << 30;  // many times the L2 cache
constexpr int64_t kBatchBytes = int64_t{256} << 20;
constexpr int kWeightExponent = -15, kBatchExponent = -9;  // deviations 0.018 and 1.15

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

GemmTuner::GemmTuner(const DeviceLimits& device, const GemmTunerOptions& options)
    : device_(device),
      options_(options),
      gemm_(device, {}),
      weights_(kWeightBytes),
      a_(kBatchBytes),
      out_(kBatchBytes),
      workspace_(Gemm::kMaxWorkspaceBytes) {
  fill_random(weights_.data(), weights_.size() / 2, 1, kWeightExponent, false, stream_.get());
  fill_random(a_.data(), a_.size() / 2, 2, kBatchExponent, false, stream_.get());
}

GemmArgs GemmTuner::product(int64_t rows, int64_t n, int64_t k, DType out_dtype, int turn) {
  const Device gpu{Device::Kind::kCuda, device_.ordinal};
  const auto grow = [&](DeviceBuffer& buffer, int64_t bytes, int exponent) {
    if (buffer.size() >= bytes) return;
    cuda_check(cudaStreamSynchronize(stream_.get()), "a product");
    buffer = DeviceBuffer();
    buffer = DeviceBuffer(bytes);
    fill_random(buffer.data(), bytes / 2, 1, exponent, false, stream_.get());
  };
  grow(weights_, n * k * 2, kWeightExponent);
  grow(a_, rows * k * 2, kBatchExponent);
  grow(out_, rows * n * dtype_size(out_dtype), kBatchExponent);
  const int64_t copies = weights_.size() / (n * k * 2);
  GemmArgs args;
  args.out = TensorView(out_.data(), out_dtype, {rows, n}, gpu);
  args.a = TensorView(a_.data(), DType::kBF16, {rows, k}, gpu);
  args.weight.data = TensorView(static_cast<uint16_t*>(weights_.data()) + turn % copies * n * k,
                                DType::kBF16, {n, k}, gpu);
  args.weight.n = n;
  args.weight.k = k;
  return args;
}

double GemmTuner::time(const std::function<void(int)>& run, double seconds) {
  run(0);
  cuda_check(cudaStreamSynchronize(stream_.get()), "a product");
  const double start = now();
  for (int i = 1; i < 4; ++i) run(i);
  cuda_check(cudaStreamSynchronize(stream_.get()), "a product");
  const int count = std::max(4, static_cast<int>(seconds / ((now() - start) / 3)));
  cuda_check(cudaEventRecord(begin_.get(), stream_.get()), "timing");
  for (int i = 0; i < count; ++i) run(i);
  cuda_check(cudaEventRecord(end_.get(), stream_.get()), "timing");
  cuda_check(cudaEventSynchronize(end_.get()), "timing");
  float ms = 0;
  cuda_check(cudaEventElapsedTime(&ms, begin_.get(), end_.get()), "timing");
  return static_cast<double>(ms) * 1e-3 / count;
}

void GemmTuner::warm_up(double seconds) {
  const Launch launch{.stream = stream_.get(),
                      .device = &device_,
                      .sms = device_.num_sms,
                      .workspace = TensorView(workspace_.data(), DType::kU8, {workspace_.size()}),
                      .rows = {},
                      .header = nullptr};
  (void)time([&](int i) { gemm_.run(product(8192, 8192, 8192, DType::kBF16, i), launch); },
             seconds);
}

GemmEntry GemmTuner::tune(int64_t rows, int64_t n, int64_t k, DType out_dtype) {
  const Launch launch{.stream = stream_.get(),
                      .device = &device_,
                      .sms = device_.num_sms,
                      .workspace = TensorView(workspace_.data(), DType::kU8, {workspace_.size()}),
                      .rows = {},
                      .header = nullptr};
  const GemmShape shape = Gemm::shape_of(product(rows, n, k, out_dtype, 0), device_.num_sms);
  const std::vector<GemmAlgorithm> algorithms = gemm_.candidates(shape, options_.candidates);
  std::vector<double> seconds(algorithms.size(), 0);
  for (int pass = 0; pass < options_.passes; ++pass) {
    for (size_t i = 0; i < algorithms.size(); ++i) {
      gemm_.choose(shape, algorithms[i]);
      seconds[i] += time([&](int t) { gemm_.run(product(rows, n, k, out_dtype, t), launch); },
                         options_.window_seconds) /
                    options_.passes;
    }
  }
  if (algorithms.empty())
    throw CudaError(fmt::format("cuBLASLt has no algorithm for {} x {} x {}", rows, n, k));
  const auto best =
      static_cast<size_t>(std::min_element(seconds.begin(), seconds.end()) - seconds.begin());
  GemmEntry entry{.rows = rows,
                  .n = n,
                  .k = k,
                  .dtype = DType::kBF16,
                  .out_dtype = out_dtype,
                  .algorithm = {},
                  .microseconds = seconds[best] * 1e6,
                  .default_microseconds = seconds[0] * 1e6};
  static_assert(sizeof(entry.algorithm) == sizeof(algorithms[best].algo.data));
  std::memcpy(entry.algorithm.data(), algorithms[best].algo.data, sizeof(entry.algorithm));
  return entry;
}

GemmTable GemmTuner::table() const {
  return GemmTable({device_.name}, cublasLtGetVersion());
}

}  // namespace nanoflow::cuda
