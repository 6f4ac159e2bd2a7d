#include "app/ceilings.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/cores.h"
#include "base/random.h"

namespace nanoflow {
namespace {

constexpr double kSeconds = 1.0;
/// A GPU needs this long at full load until its power limit has settled its clock.
constexpr double kGpuSettleSeconds = 1.5;

/// Random host values of about unit size in `dtype`.
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

/// Calls of `work` per second, after a warm-up; `work` is queued, so eight go between two waits.
template <typename Work>
double rate(Backend& backend, double warm_up_s, const Work& work) {
  const SteadyClock clock;
  const auto run = [&](double seconds) {
    const double start_s = clock.now_s();
    int64_t count = 0;
    while (clock.now_s() - start_s < seconds) {
      for (int i = 0; i < 8; ++i, ++count) work();
      backend.synchronize();
    }
    return static_cast<double>(count) / (clock.now_s() - start_s);
  };
  (void)run(warm_up_s);
  return run(kSeconds);
}

double measure_gemm(Backend& backend, int64_t size, double warm_up_s, DType dtype) {
  // A GPU's operands repeat a block of random rows: making them all would take longer than to
  // multiply them.
  const int64_t block = std::min<int64_t>(size, 1024);
  const Buffer host = backend.allocate_pinned(block * size * dtype_size(dtype));
  const TensorView rows = host.view(dtype, {block, size});
  const auto matrix = [&](uint64_t seed) {
    fill_random(rows, seed);
    Buffer buffer = backend.allocate(size * size * dtype_size(dtype));
    for (int64_t row = 0; row < size; row += block)
      backend.copy(buffer.view(dtype, {size, size}).slice_rows(row, row + block), rows, 0);
    backend.synchronize();
    return buffer;
  };
  const Buffer a = matrix(1);
  fill_random(rows, 2);
  const OwnedWeight weight = backend.load_weight(
      {.rows = size, .cols = size, .dtype = dtype}, [&](int64_t, const TensorView& out) {
        for (int64_t row = 0; row < out.rows(); ++row)
          std::memcpy(
              static_cast<std::byte*>(out.data()) + row * out.row_stride() * dtype_size(dtype),
              static_cast<const std::byte*>(rows.data()) + row % block * size * dtype_size(dtype),
              static_cast<size_t>(size * dtype_size(dtype)));
      });
  const Buffer out = backend.allocate(size * size * dtype_size(dtype));
  const OpArgs gemm = GemmArgs{.out = out.view(dtype, {size, size}),
                               .a = a.view(dtype, {size, size}),
                               .weight = weight.packed};
  LaunchContext context{.rows = {0, size}};
  const Buffer workspace =
      backend.allocate(std::max<int64_t>(1, backend.workspace_bytes(gemm, context)));
  context.workspace = workspace.view(DType::kU8, {workspace.size()});
  const auto cube = static_cast<double>(size) * static_cast<double>(size * size);
  return 2 * cube * rate(backend, warm_up_s, [&] { backend.launch(gemm, context); });
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
    readers.reserve(static_cast<size_t>(count));
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

Ceilings measure_ceilings(const DeviceChoice& device, int threads, DType dtype) {
  const auto backend = make_backend(device, {.threads = threads, .lanes = 1});
  if (device.is_cuda)
    return {.gemm_flops = measure_gemm(*backend, 8192, kGpuSettleSeconds, dtype),
            .read_bytes_per_s = gpu_read_rate(device)};
  return {.gemm_flops = measure_gemm(*backend, 1024, 0.1, dtype),
          .read_bytes_per_s = measure_read(threads)};
}

}  // namespace nanoflow
