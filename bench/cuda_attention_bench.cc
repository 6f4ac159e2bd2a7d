// Checks the CUDA attention kernels (cuda_attention_check.h), then times them against the HBM read
// rate and the sustained GEMM rate of the same run: replayed graphs, each entry in steady state.
//
// Usage: cuda_attention_bench [check] [decode] [prefill] [seconds per entry]
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/read_rate.h"
#include "cuda_attention_check.h"

namespace nanoflow::bench {
namespace {

using cuda::cuda_check;
using cuda::DeviceBuffer;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

cuda::DeviceLimits limits() {
  cudaDeviceProp prop{};
  cuda_check(cudaGetDeviceProperties(&prop, 0), "device properties");
  cuda::DeviceLimits d;
  d.name = prop.name;
  d.compute_major = prop.major;
  d.compute_minor = prop.minor;
  d.num_sms = prop.multiProcessorCount;
  d.shared_bytes_per_block = static_cast<int64_t>(prop.sharedMemPerBlockOptin);
  d.shared_bytes_per_sm = static_cast<int64_t>(prop.sharedMemPerMultiprocessor);
  return d;
}

class Timing {
 public:
  Timing(const cuda::DeviceLimits& device, double seconds) : device_(device), seconds_(seconds) {}

  void run(bool decode_entries, bool prefill_entries) {
    const int64_t bytes = int64_t{8} << 30;
    kv_ = DeviceBuffer(bytes);
    fill_random(kv_, bytes);
    q_ = DeviceBuffer(int64_t{8192} * 6144 * 2);
    fill_random(q_, q_.size());
    out_ = DeviceBuffer(int64_t{8192} * 4096 * 2);
    workspace_ = DeviceBuffer(int64_t{64} << 20);
    sink_ = DeviceBuffer(16);
    gemm_ = gemm_rate();
    read_ = static_cast<double>(bytes) / time([&](int) {
              cuda::read_memory(kv_.data(), bytes, device_.num_sms,
                                static_cast<float*>(sink_.data()), stream_.get());
            });
    std::printf("%s: GEMM 8192^3 sustained %.1f TF/s, HBM read %.0f GB/s\n", device_.name.c_str(),
                gemm_ / 1e12, read_ / 1e9);
    if (decode_entries) decodes();
    if (prefill_entries) prefills();
  }

 private:
  void decodes() {
    std::printf("%-34s %5s %9s %8s %7s\n", "decode", "sms", "us", "GB/s", "of HBM");
    const auto uneven = [](int64_t count, int64_t mean) {
      std::minstd_rand random(5);
      std::vector<Seq> seqs;
      for (int64_t i = 0; i < count; ++i)
        seqs.push_back(
            {mean / 2 + static_cast<int64_t>(random() % static_cast<unsigned>(mean)), 1});
      return seqs;
    };
    const std::vector<Seq> many = uneven(1024, 1000);
    for (const int sms : {device_.num_sms, 96, 64, 48, 40, 32, 24, 16})
      decode("32/8 d128 1024 x ~1000", many, {}, sms, true);
    decode("same, cp.async kernel", many, {}, device_.num_sms, false);
    decode("32/8 d128 64 x 8192", std::vector<Seq>(64, {8192, 1}), {}, device_.num_sms, true);
    decode("32/8 d128 1 x 32768", {{32768, 1}}, {}, device_.num_sms, true);
    decode("32/8 d128 1 x 1024", {{1024, 1}}, {}, device_.num_sms, true);
    decode("32/8 d128 256 x ~128", uneven(256, 128), {}, device_.num_sms, true);
    std::vector<Seq> skewed = uneven(255, 400);
    skewed.push_back({120000, 1});
    decode("32/8 d128 255 x ~400 + 1 x 120k", skewed, {}, device_.num_sms, true);
    decode("32/8 d64 1024 x ~1000", many, {32, 8, 64}, device_.num_sms, true);
    decode("32/8 d64 1024 x ~1000", many, {32, 8, 64}, 40, true);
    decode("32/32 d80 256 x ~1000", uneven(256, 1000), {32, 32, 80}, device_.num_sms, true);
    decode("64/8 d128 512 x ~1000", uneven(512, 1000), {64, 8, 128}, device_.num_sms, true);
    decode("8/1 d256 1024 x ~2000", uneven(1024, 2000), {8, 1, 256}, device_.num_sms, true);
  }

  void prefills() {
    std::printf("%-34s %5s %9s %8s %7s\n", "prefill", "sms", "us", "TF/s", "of GEMM");
    const int all = device_.num_sms;
    prefill("32/8 d128 2048 of 2048", {{2048, 2048}}, {}, all, true);
    prefill("32/8 d128 2048 of 4096", {{4096, 2048}}, {}, all, true);
    prefill("32/8 d128 2048 of 8192", {{8192, 2048}}, {}, all, true);
    for (const int sms : {96, 64, 32})
      prefill("32/8 d128 2048 of 8192", {{8192, 2048}}, {}, sms, true);
    prefill("32/8 d128 8192 of 8192", {{8192, 8192}}, {}, all, true);
    prefill("32/8 d128 2 x 1024 of 1024", {{1024, 1024}, {1024, 1024}}, {}, all, true);
    prefill("32/8 d128 16 x 128 of ~1000", std::vector<Seq>(16, {1000, 128}), {}, all, true);
    prefill("32/32 d128 2048 of 4096", {{4096, 2048}}, {32, 32, 128}, all, true);
    prefill("32/8 d64 2048 of 8192", {{8192, 2048}}, {32, 8, 64}, all, true);
    prefill("32/8 d128 2048 of 8192, warps", {{8192, 2048}}, {}, all, false);
    prefill("32/8 d96 2048 of 8192", {{8192, 2048}}, {32, 8, 96}, all, true);
  }

  /// Nearly normal 16-bit floats of magnitude about 1: random bits would be infinities and NaN.
  void fill_random(const DeviceBuffer& to, int64_t bytes) {
    constexpr int64_t kBlock = int64_t{1} << 25;
    std::vector<uint16_t> block(kBlock / 2);
    std::minstd_rand random(3);
    for (uint16_t& x : block) {
      float sum = -6;
      for (int i = 0; i < 12; ++i) sum += static_cast<float>(random() % 65536) / 65536;
      x = BFloat16(sum).bits;
    }
    for (int64_t at = 0; at < bytes; at += kBlock)
      cuda_check(
          cudaMemcpy(static_cast<char*>(to.data()) + at, block.data(),
                     static_cast<size_t>(std::min(kBlock, bytes - at)), cudaMemcpyHostToDevice),
          "fill");
  }

  PagedAttentionArgs args_of(const std::vector<Seq>& seqs, const Shape& s, Phase phase) {
    std::vector<int32_t> positions, row_seq, indptr = {0}, indices;
    for (const Seq& seq : seqs) {
      for (int64_t r = 0; r < seq.rows; ++r) {
        positions.push_back(static_cast<int32_t>(seq.length - seq.rows + r));
        row_seq.push_back(static_cast<int32_t>(indptr.size() - 1));
      }
      indptr.push_back(indptr.back() + static_cast<int32_t>((seq.length + kPage - 1) / kPage));
    }
    const int64_t page_elements = 2 * s.kv_heads * kPage * s.dim;  // K and V beside each other
    num_pages_ = kv_.size() / (page_elements * 2);
    // Small caches leave the upper half of the pool to the rotations of attention_time().
    const int64_t half = num_pages_ / 2;
    std::vector<int32_t> pages(static_cast<size_t>(indptr.back() <= half ? half : num_pages_));
    std::iota(pages.begin(), pages.end(), 0);
    std::minstd_rand random(1);
    std::shuffle(pages.begin(), pages.end(), random);
    for (int32_t i = 0; i < indptr.back(); ++i)
      indices.push_back(pages[static_cast<size_t>(i) % pages.size()]);
    const auto rows = static_cast<int64_t>(positions.size());
    const StepHeader header{static_cast<int32_t>(rows),
                            phase == Phase::kDecode ? static_cast<int32_t>(rows) : 0,
                            static_cast<int32_t>(seqs.size()), 0};
    keep_.clear();
    const Device device{Device::Kind::kCuda, 0};
    const auto keep = [&](const void* data, size_t size) {
      keep_.emplace_back(static_cast<int64_t>(size));
      cuda_check(cudaMemcpy(keep_.back().data(), data, size, cudaMemcpyHostToDevice), "upload");
      return keep_.back().data();
    };
    const auto ints = [&](const std::vector<int32_t>& v) {
      return TensorView(keep(v.data(), v.size() * 4), DType::kI32, {static_cast<int64_t>(v.size())},
                        device);
    };
    PagedAttentionArgs a;
    const int64_t cols = s.q_heads * s.dim;
    a.q = TensorView(q_.data(), s.dtype, {rows, cols}, device);
    a.out = TensorView(out_.data(), s.dtype, {rows, cols}, device);
    a.num_q_heads = s.q_heads;
    a.num_kv_heads = s.kv_heads;
    a.head_dim = s.dim;
    a.cache = {kv_.data(), static_cast<uint16_t*>(kv_.data()) + page_elements / 2,
               s.dtype,    num_pages_,
               kPage,      page_elements,
               s.dim,      kPage * s.dim};
    a.step.header = static_cast<const StepHeader*>(keep(&header, sizeof header));
    a.step.positions = ints(positions);
    a.step.row_seq = ints(row_seq);
    a.step.kv_page_indptr = ints(indptr);
    a.step.kv_page_indices = ints(indices);
    a.rows = {0, rows};
    a.phase = phase;
    a.scale = 1 / std::sqrt(static_cast<float>(s.dim));
    return a;
  }

  double attention_time(const PagedAttentionArgs& base, int sms, bool hopper, int rotations) {
    cuda::DeviceLimits limits = device_;
    if (!hopper) limits.compute_major = 8;
    const TensorView workspace(workspace_.data(), DType::kU8, {workspace_.size()},
                               {Device::Kind::kCuda, 0});
    if (cuda::workspace_bytes(base, sms, limits) > workspace_.size()) return NAN;
    // Small caches are read at other addresses each time, since the L2 would keep them.
    return time([&](int i) {
      PagedAttentionArgs a = base;
      const int64_t shift = rotations > 1 ? (i % rotations) * (num_pages_ / rotations / 2) : 0;
      a.cache.k = static_cast<uint16_t*>(a.cache.k) + shift * a.cache.page_stride;
      a.cache.v = static_cast<uint16_t*>(a.cache.v) + shift * a.cache.page_stride;
      a.cache.num_pages -= shift;
      cuda::run(a, {stream_.get(), &limits, sms, workspace, a.rows, a.step.header});
    });
  }

  void decode(const char* name, const std::vector<Seq>& seqs, const Shape& s, int sms,
              bool hopper) {
    const PagedAttentionArgs a = args_of(seqs, s, Phase::kDecode);
    double tokens = 0;
    for (const Seq& seq : seqs) tokens += static_cast<double>(seq.length);
    const double bytes = tokens * static_cast<double>(2 * s.kv_heads * s.dim * 2);
    const double us = attention_time(a, sms, hopper, bytes < 1e9 ? 8 : 1);
    std::printf("%-34s %5d %9.1f %8.0f %6.1f%%\n", name, sms, us * 1e6, bytes / us / 1e9,
                100 * bytes / us / read_);
    std::fflush(stdout);
  }

  void prefill(const char* name, const std::vector<Seq>& seqs, const Shape& s, int sms,
               bool hopper) {
    const PagedAttentionArgs a = args_of(seqs, s, Phase::kPrefill);
    double keys = 0;
    for (const Seq& seq : seqs)
      for (int64_t r = 0; r < seq.rows; ++r) keys += static_cast<double>(seq.length - r);
    const double flops = keys * 4 * static_cast<double>(s.q_heads * s.dim);
    const double us = attention_time(a, sms, hopper, 1);
    std::printf("%-34s %5d %9.1f %8.1f %6.1f%%\n", name, sms, us * 1e6, flops / us / 1e12,
                100 * flops / us / gemm_);
    std::fflush(stdout);
  }

  /// Seconds of one call: a graph of eight, replayed for the entry's seconds after a third of them
  /// as warm-up.
  double time(const std::function<void(int)>& call) {
    constexpr int kCalls = 8;
    cuda_check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < kCalls; ++i) call(i);
    cudaGraph_t captured = nullptr;
    cuda_check(cudaStreamEndCapture(stream_.get(), &captured), "capture");
    const cuda::Graph graph(captured);
    const auto for_seconds = [&](double seconds) {
      const double start = now();
      int replays = 0;
      while (now() - start < seconds) {
        for (int i = 0; i < 4; ++i, ++replays)
          cuda_check(cudaGraphLaunch(graph.get(), stream_.get()), "replay");
        cuda_check(cudaStreamSynchronize(stream_.get()), "replay");
      }
      return replays;
    };
    for_seconds(seconds_ / 3);
    const cuda::Event begin(cuda::Event::Timing::kOn), end(cuda::Event::Timing::kOn);
    cuda_check(cudaEventRecord(begin.get(), stream_.get()), "event");
    const int replays = for_seconds(seconds_);
    cuda_check(cudaEventRecord(end.get(), stream_.get()), "event");
    cuda_check(cudaEventSynchronize(end.get()), "event");
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, begin.get(), end.get()), "event");
    return static_cast<double>(ms) / 1e3 / replays / kCalls;
  }

  double gemm_rate() {
    constexpr int64_t n = 8192;
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t layout = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    size_t workspace = static_cast<size_t>(workspace_.size());
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    bool ok = cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, n, n, n) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS;
    ok = ok && cublasLtMatmulPreferenceSetAttribute(
                   preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                   sizeof workspace) == CUBLAS_STATUS_SUCCESS;
    ok = ok &&
         cublasLtMatmulAlgoGetHeuristic(handle, desc, layout, layout, layout, layout, preference, 1,
                                        &found, &count) == CUBLAS_STATUS_SUCCESS;
    if (!ok || count == 0) throw CudaError("no cuBLASLt algorithm");
    auto* a = static_cast<uint16_t*>(kv_.data());
    auto* d = static_cast<uint16_t*>(q_.data());
    const DeviceBuffer product(n * n * 2);
    d = static_cast<uint16_t*>(product.data());
    const float one = 1, zero = 0;
    const auto call = [&](int) {
      cublasLtMatmul(handle, desc, &one, a, layout, a + n * n, layout, &zero, d, layout, d, layout,
                     &found.algo, workspace_.data(), workspace, stream_.get());
    };
    time(call);  // to the power cap
    const double seconds = time(call);
    return 2.0 * n * n * n / seconds;
  }

  cuda::DeviceLimits device_;
  double seconds_;
  cuda::Stream stream_;
  DeviceBuffer kv_, q_, out_, workspace_, sink_;
  std::vector<DeviceBuffer> keep_;
  int64_t num_pages_ = 0;
  double gemm_ = 0, read_ = 0;
};

int main_of(int argc, char** argv) {
  bool check = false, decode = false, prefill = false;
  double seconds = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "check")
      check = true;
    else if (arg == "decode")
      decode = true;
    else if (arg == "prefill")
      prefill = true;
    else
      seconds = std::atof(argv[i]);
  }
  if (!check && !decode && !prefill) check = decode = prefill = true;
  const cuda::DeviceLimits device = limits();
  int wrong = 0;
  if (check) wrong = check_attention(device);
  std::fflush(stdout);
  if (decode || prefill) Timing(device, seconds).run(decode, prefill);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nanoflow::bench

int main(int argc, char** argv) {
  try {
    return nanoflow::bench::main_of(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
