#include "app/ceilings.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "backend/cpu/backend.h"
#include "base/clock.h"
#include "base/cores.h"
#include "base/random.h"

namespace nanoflow {
namespace {

constexpr double kSeconds = 1.0;

/// Random values of about unit size in `dtype`.
void fill_random(const TensorView& view, uint64_t seed) {
  SplitMix64 random(seed);
  for (int64_t r = 0; r < view.rows(); ++r) {
    for (int64_t c = 0; c < view.cols(); ++c) {
      const auto value = static_cast<float>(random.uniform() * 2 - 1);
      switch (view.dtype()) {
        case DType::kF32: view.row<float>(r)[c] = value; break;
        case DType::kF16: view.row<Float16>(r)[c] = Float16(value); break;
        default: view.row<BFloat16>(r)[c] = BFloat16(value); break;
      }
    }
  }
}

double measure_gemm(int threads, DType dtype) {
  constexpr int64_t kSize = 1024;
  CpuBackend backend({.threads = threads, .lanes = 1});
  const auto matrix = [&](uint64_t seed) {
    Buffer buffer = backend.allocate(kSize * kSize * dtype_size(dtype));
    fill_random(buffer.view(dtype, {kSize, kSize}), seed);
    return buffer;
  };
  const Buffer a = matrix(1);
  const Buffer w = matrix(2);
  const Buffer out = backend.allocate(kSize * kSize * dtype_size(dtype));
  const OwnedWeight weight =
      backend.prepare_weight(w.view(dtype, {kSize, kSize}), WeightUse::kMatmul, 1);
  const OpArgs gemm = GemmArgs{.out = out.view(dtype, {kSize, kSize}),
                               .a = a.view(dtype, {kSize, kSize}),
                               .weight = weight.packed};
  LaunchContext context{.rows = {0, kSize}};
  const Buffer workspace =
      backend.allocate(std::max<int64_t>(1, backend.workspace_bytes(gemm, context)));
  context.workspace = workspace.view(DType::kU8, {workspace.size()});
  const SteadyClock clock;
  const auto run = [&](double seconds) {
    const double start_s = clock.now_s();
    int64_t count = 0;
    while (clock.now_s() - start_s < seconds) {
      for (int i = 0; i < 8; ++i, ++count) backend.launch(gemm, context);
      backend.synchronize();
    }
    return static_cast<double>(count) / (clock.now_s() - start_s);
  };
  (void)run(0.1);  // warm up
  return run(kSeconds) * 2 * kSize * kSize * kSize;
}

double measure_read(int threads) {
  const int count = threads > 0 ? threads : usable_cores();
  constexpr size_t kWords = size_t{1} << 24;  // 128 MiB per thread: beyond any cache
  std::atomic<int64_t> bytes{0};
  std::atomic<uint64_t> sink{0};  // so that the reads are not optimised away
  const SteadyClock clock;
  double reading_s = 0;
  {
    std::vector<std::jthread> readers;
    for (int t = 0; t < count; ++t) {
      readers.emplace_back([&, t] {
        std::vector<uint64_t> data(kWords, static_cast<uint64_t>(t) + 1);
        const double begin_s = clock.now_s();
        while (clock.now_s() - begin_s < kSeconds) {
          uint64_t sums[8] = {};
          for (size_t i = 0; i < kWords; i += 8)
            for (size_t k = 0; k < 8; ++k) sums[k] += data[i + k];
          for (const uint64_t sum : sums) sink += sum;
          bytes += static_cast<int64_t>(kWords * sizeof(uint64_t));
        }
        if (t == 0) reading_s = clock.now_s() - begin_s;
      });
    }
  }
  return static_cast<double>(bytes.load()) / reading_s;
}

}  // namespace

Ceilings measure_ceilings(int threads, DType dtype) {
  return {.gemm_flops = measure_gemm(threads, dtype), .read_bytes_per_s = measure_read(threads)};
}

}  // namespace nanoflow
