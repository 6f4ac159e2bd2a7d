// SiLU * up: two vectors in, one out, several in flight per thread.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dependent.cuh"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 2;  // with gate and up, four 16-byte loads in flight

template <typename T>
struct SiluParams {
  const T* in;
  T* out;
  int64_t in_stride, out_stride;
  int cols;
  int tiles;  ///< blocks that cover one row
  LiveRows live;
};

template <typename T>
__device__ __forceinline__ float silu(float x) {
  // With 16-bit results the error of the fast functions vanishes in the rounding.
  if constexpr (sizeof(T) == 2) return __fdividef(x, 1.0f + __expf(-x));
  return x / (1.0f + expf(-x));
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) silu_kernel(SiluParams<T> p) {
  let_next_start();
  wait_for_previous();
  const int64_t work = static_cast<int64_t>(p.live.count()) * p.tiles;
  const int vectors = p.cols / N;
  for (int64_t item = blockIdx.x; item < work; item += gridDim.x) {
    const int64_t row = item / p.tiles;
    const int first =
        static_cast<int>(item % p.tiles) * kThreads * kPerThread + static_cast<int>(threadIdx.x);
    const T* gate_row = p.in + row * p.in_stride;
    const T* up_row = gate_row + p.cols;
    Vec<T, N> gate[kPerThread], up[kPerThread];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int at = first + j * kThreads;
      if (at >= vectors) break;
      gate[j] = load_vec<T, N>(gate_row + static_cast<int64_t>(at) * N);
      up[j] = load_vec<T, N>(up_row + static_cast<int64_t>(at) * N);
    }
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int at = first + j * kThreads;
      if (at >= vectors) break;
      Vec<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i)
        out.at[i] = from_float<T>(silu<T>(to_float(gate[j].at[i])) * to_float(up[j].at[i]));
      store_vec(p.out + row * p.out_stride + static_cast<int64_t>(at) * N, out);
    }
  }
}

template <typename T, int N>
void launch_silu(SiluParams<T> p, int64_t rows, const Launch& launch) {
  const int per_block = kThreads * kPerThread;
  p.tiles = (p.cols / N + per_block - 1) / per_block;
  const int64_t resident = static_cast<int64_t>(launch.sms) * (2048 / kThreads);
  const auto blocks = static_cast<unsigned>(std::min(rows * p.tiles, resident));
  launch_dependent(silu_kernel<T, N>, blocks, kThreads, 0, rows, launch, "launching SiLU", p);
}

}  // namespace

void run(const SiluMulArgs& args, const Launch& launch) {
  if (args.out.empty()) return;
  const int64_t rows = args.out.rows();
  // The up half starts cols elements behind the gate half, so cols must be whole vectors.
  const bool aligned = is_vector_aligned(args.gate_up) && is_vector_aligned(args.out);
  with_act_type(args.out.dtype(), [&]<typename T>(T) {
    const SiluParams<T> p{.in = static_cast<const T*>(args.gate_up.data()),
                          .out = static_cast<T*>(args.out.data()),
                          .in_stride = args.gate_up.row_stride(),
                          .out_stride = args.out.row_stride(),
                          .cols = static_cast<int>(args.out.cols()),
                          .tiles = 1,
                          .live = live_rows(launch, rows)};
    if (aligned) return launch_silu<T, 16 / sizeof(T)>(p, rows, launch);
    launch_silu<T, 1>(p, rows, launch);
  });
}

}  // namespace nanoflow::cuda
