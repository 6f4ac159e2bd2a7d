// RMS norms: one block per row, the row in registers between its one read and its one write.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dependent.cuh"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kMaxThreads = 512;  // 1,024 leave too few registers for kKept vectors: they spilled
/// Vectors that a thread keeps in registers: four independent 16-byte loads in flight. Longer rows
/// are read again from the cache.
constexpr int kKept = 4;

template <typename T>
struct Rows {
  T* data;
  int64_t stride;
};

/// x is the input; with kAdd, x is the residual stream and delta is added to it first.
template <typename T>
struct NormParams {
  Rows<T> out, x, delta;
  const T* weight;
  int vectors;  ///< of a row
  int cols;
  float eps;
  bool replace;
  LiveRows live;
};

/// Sum over the block, the same bits in every thread.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float partial[kMaxThreads / 32];
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  if (threadIdx.x % 32 == 0) partial[warp] = x;
  __syncthreads();
  x = threadIdx.x % 32 < warps ? partial[threadIdx.x % 32] : 0.0f;
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  __syncthreads();  // the next row writes `partial` again
  return x;
}

/// residual + delta, rounded to T as the next layer will see it.
template <typename T, int N>
__device__ __forceinline__ Vec<T, N> add(const Vec<T, N>& a, const Vec<T, N>& b) {
  Vec<T, N> sum;
#pragma unroll
  for (int i = 0; i < N; ++i) sum.at[i] = from_float<T>(to_float(a.at[i]) + to_float(b.at[i]));
  return sum;
}

/// The residual stream's new row: delta, added to the old row unless it starts the stream.
template <typename T, int N>
__device__ __forceinline__ Vec<T, N> add_residual(const NormParams<T>& p, int64_t row, int at,
                                                  const Vec<T, N>& old, const Vec<T, N>& delta) {
  const Vec<T, N> sum = p.replace ? delta : add(old, delta);
  store_vec(p.x.data + row * p.x.stride + at * N, sum);
  return sum;
}

template <typename T, int N>
__device__ __forceinline__ float square_sum(const Vec<T, N>& x) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += to_float(x.at[i]) * to_float(x.at[i]);
  return sum;
}

template <typename T, int N>
__device__ __forceinline__ void store_normed(const NormParams<T>& p, int64_t row, int at,
                                             const Vec<T, N>& x, float scale) {
  const Vec<T, N> weight = load_vec<T, N>(p.weight + at * N);
  Vec<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i)
    out.at[i] = from_float<T>(to_float(x.at[i]) * scale * to_float(weight.at[i]));
  store_vec(p.out.data + row * p.out.stride + at * N, out);
}

template <typename T, int N, bool kAdd>
__global__ void __launch_bounds__(kMaxThreads) norm_kernel(NormParams<T> p) {
  let_next_start();
  wait_for_previous();
  const int live = p.live.count(), threads = static_cast<int>(blockDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < live; row += gridDim.x) {
    const T* x = p.x.data + row * p.x.stride;
    const T* delta = kAdd ? p.delta.data + row * p.delta.stride : nullptr;
    Vec<T, N> kept[kKept], deltas[kAdd ? kKept : 1];
    float sum = 0;
    // All loads come before the first store, which the compiler cannot move them across.
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const int at = thread + j * threads;
      if (at >= p.vectors) break;
      if constexpr (kAdd) deltas[j] = load_vec<T, N>(delta + at * N);
      if (!kAdd || !p.replace) kept[j] = load_vec<T, N>(x + at * N);
    }
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const int at = thread + j * threads;
      if (at >= p.vectors) break;
      if constexpr (kAdd) kept[j] = add_residual(p, row, at, kept[j], deltas[j]);
      sum += square_sum(kept[j]);
    }
    for (int at = thread + kKept * threads; at < p.vectors; at += threads) {
      Vec<T, N> more = load_vec<T, N>(x + at * N);
      if constexpr (kAdd) more = add_residual(p, row, at, more, load_vec<T, N>(delta + at * N));
      sum += square_sum(more);
    }
    const float scale = rsqrtf(block_sum(sum) / static_cast<float>(p.cols) + p.eps);
#pragma unroll
    for (int j = 0; j < kKept; ++j)
      if (thread + j * threads < p.vectors)
        store_normed(p, row, thread + j * threads, kept[j], scale);
    for (int at = thread + kKept * threads; at < p.vectors; at += threads)
      store_normed(p, row, at, load_vec<T, N>(x + at * N), scale);
  }
}

template <typename T>
Rows<T> rows_of(const TensorView& v) {
  return {static_cast<T*>(v.data()), v.row_stride()};
}

template <typename T, int N, bool kAdd>
void launch_norm(NormParams<T> p, int64_t rows, const Launch& launch) {
  p.vectors = p.cols / N;
  const int wanted = (p.vectors + kKept - 1) / kKept;
  const int threads = std::clamp((wanted + 31) / 32 * 32, 32, kMaxThreads);
  const int64_t resident = static_cast<int64_t>(launch.sms) * (2048 / std::max(threads, 64));
  const auto blocks = static_cast<unsigned>(std::min(rows, resident));
  launch_dependent(norm_kernel<T, N, kAdd>, blocks, threads, 0, rows, launch,
                   "launching an RMS norm", p);
}

template <typename T, bool kAdd>
void choose_width(const NormParams<T>& p, int64_t rows, bool aligned, const Launch& launch) {
  if (aligned) return launch_norm<T, 16 / sizeof(T), kAdd>(p, rows, launch);
  launch_norm<T, 1, kAdd>(p, rows, launch);
}

}  // namespace

void run(const RmsNormArgs& args, const Launch& launch) {
  if (args.x.empty()) return;
  const bool aligned = is_vector_aligned(args.x) && is_vector_aligned(args.out) &&
                       reinterpret_cast<uintptr_t>(args.weight.data()) % 16 == 0;
  with_act_type(args.x.dtype(), [&]<typename T>(T) {
    const NormParams<T> p{.out = rows_of<T>(args.out),
                          .x = rows_of<T>(args.x),
                          .delta = {},
                          .weight = static_cast<const T*>(args.weight.data()),
                          .vectors = 0,
                          .cols = static_cast<int>(args.x.cols()),
                          .eps = args.eps,
                          .replace = false,
                          .live = live_rows(launch, args.x.rows())};
    choose_width<T, false>(p, args.x.rows(), aligned, launch);
  });
}

void run(const AddRmsNormArgs& args, const Launch& launch) {
  if (args.residual.empty()) return;
  const bool aligned = is_vector_aligned(args.residual) && is_vector_aligned(args.delta) &&
                       is_vector_aligned(args.out) &&
                       reinterpret_cast<uintptr_t>(args.weight.data()) % 16 == 0;
  with_act_type(args.residual.dtype(), [&]<typename T>(T) {
    const NormParams<T> p{.out = rows_of<T>(args.out),
                          .x = rows_of<T>(args.residual),
                          .delta = rows_of<T>(args.delta),
                          .weight = static_cast<const T*>(args.weight.data()),
                          .vectors = 0,
                          .cols = static_cast<int>(args.residual.cols()),
                          .eps = args.eps,
                          .replace = args.replace,
                          .live = live_rows(launch, args.residual.rows())};
    choose_width<T, true>(p, args.residual.rows(), aligned, launch);
  });
}

}  // namespace nanoflow::cuda
