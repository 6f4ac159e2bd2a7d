// Mixture of experts: routing, stable sorting by expert, and the weighted sum. All on the device,
// whatever the counts. The grouped products are GEMM's.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kWarp = 32;

struct RouteParams {
  const float* logits;
  int64_t logits_stride;
  int32_t* ids;
  float* weights;
  int64_t ids_stride, weights_stride;
  int experts, choices;
  bool renormalize;
  LiveRows live;
};

/// (value, index) order of routing: higher value first, then lower index.
__device__ __forceinline__ bool comes_before(float a, int i, float b, int j) {
  return a > b || (a == b && i < j);
}

/// One warp per row; lane l holds experts l, l + 32, ..., kPerLane of them.
template <int kPerLane>
__global__ void __launch_bounds__(128) route_kernel(RouteParams p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, live = p.live.count();
  const int warps = static_cast<int>(gridDim.x * blockDim.x) / kWarp;
  for (int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / kWarp; row < live;
       row += warps) {
    float logits[kPerLane];
    float best = -INFINITY;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int e = lane + j * kWarp;
      logits[j] = e < p.experts ? p.logits[row * p.logits_stride + e] : -INFINITY;
      if (isnan(logits[j])) logits[j] = -INFINITY;
      best = fmaxf(best, logits[j]);
    }
    for (int step = 16; step > 0; step /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, step));
    best = fmaxf(best, -3e38f);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
      sum += lane + j * kWarp < p.experts ? expf(logits[j] - best) : 0.0f;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    float kept = 0;
    unsigned taken = 0;  // bit j: this lane's expert lane + 32 j is chosen already
    int32_t* ids = p.ids + row * p.ids_stride;
    float* weights = p.weights + row * p.weights_stride;
    for (int c = 0; c < p.choices; ++c) {
      float value = -INFINITY;
      int index = INT_MAX;
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const int e = lane + j * kWarp;
        if (e < p.experts && (taken >> j & 1u) == 0 && comes_before(logits[j], e, value, index)) {
          value = logits[j];
          index = e;
        }
      }
      for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, value, step);
        const int other_index = __shfl_xor_sync(~0u, index, step);
        if (comes_before(other, other_index, value, index)) {
          value = other;
          index = other_index;
        }
      }
      if (index % kWarp == lane) taken |= 1u << (index / kWarp);
      const float weight = expf(value - best) / fmaxf(sum, 1e-38f);
      kept += weight;
      if (lane == 0) {
        ids[c] = index;
        weights[c] = weight;
      }
    }
    if (lane == 0 && p.renormalize && kept > 0)
      for (int c = 0; c < p.choices; ++c) weights[c] /= kept;
  }
}

struct SortParams {
  const int32_t* ids;
  int64_t ids_stride;
  int32_t *order, *offsets;
  int experts, choices;
  LiveRows live;
};

constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / kWarp;

/// Lanes of the warp whose expert is the same, among those with a pair.
__device__ __forceinline__ unsigned same_expert(int expert) {
  return __match_any_sync(~0u, expert);
}

/// Counting sort in one block. Warps own consecutive stretches of the pairs, so that a warp's place
/// within an expert follows from the counts of the warps before it: stable and without atomics.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(SortParams p) {
  extern __shared__ int32_t counts[];  // [experts][kSortWarps]
  __shared__ int32_t totals[kSortWarps];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int pairs = p.live.count() * p.choices;
  const int stretch = (pairs + kSortThreads - 1) / kSortThreads * kWarp;
  const int begin = warp * stretch, end = min(pairs, begin + stretch);
  const auto expert_of = [&](int i) {
    return i < end ? p.ids[i / p.choices * p.ids_stride + i % p.choices] : -1;
  };
  for (int i = static_cast<int>(threadIdx.x); i < p.experts * kSortWarps; i += kSortThreads)
    counts[i] = 0;
  __syncthreads();
  for (int base = begin; base < end; base += kWarp) {
    const int expert = expert_of(base + lane);
    const unsigned same = same_expert(expert);
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1)
      counts[expert * kSortWarps + warp] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  // Exclusive prefix over (expert, warp): each thread takes consecutive entries.
  const int entries = p.experts * kSortWarps;
  const int share = (entries + kSortThreads - 1) / kSortThreads;
  const int from = min(entries, static_cast<int>(threadIdx.x) * share);
  const int to = min(entries, from + share);
  int sum = 0;
  for (int i = from; i < to; ++i) sum += counts[i];
  int before = sum;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(~0u, before, step);
    if (lane >= step) before += other;
  }
  if (lane == kWarp - 1) totals[warp] = before;
  __syncthreads();
  before -= sum;
  for (int w = 0; w < warp; ++w) before += totals[w];
  for (int i = from; i < to; ++i) {
    const int count = counts[i];
    counts[i] = before;
    before += count;
  }
  __syncthreads();
  for (int e = static_cast<int>(threadIdx.x); e < p.experts; e += kSortThreads)
    p.offsets[e] = counts[e * kSortWarps];
  if (threadIdx.x == 0) p.offsets[p.experts] = pairs;
  __syncthreads();
  for (int base = begin; base < end; base += kWarp) {
    const int expert = expert_of(base + lane);
    const unsigned same = same_expert(expert);
    if (expert >= 0) {
      const int place = counts[expert * kSortWarps + warp];
      p.order[place + __popc(same & ((1u << lane) - 1))] = base + lane;
    }
    __syncwarp();
    if (expert >= 0 && lane == __ffs(static_cast<int>(same)) - 1)
      counts[expert * kSortWarps + warp] += __popc(same);
    __syncwarp();
  }
}

/// position[order[i]] = i.
__global__ void invert_kernel(const int32_t* order, int32_t* position, LiveRows live, int choices) {
  const int pairs = live.count() * choices;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < pairs;
       i += static_cast<int>(gridDim.x * blockDim.x))
    position[order[i]] = i;
}

template <typename T>
struct CombineParams {
  T* out;
  const T* x;
  const float* weights;
  const int32_t* position;
  int64_t out_stride, x_stride, weights_stride;
  int cols, choices;
  LiveRows live;
};

template <typename T, int N>
__global__ void __launch_bounds__(256) combine_kernel(CombineParams<T> p) {
  const int live = p.live.count(), vectors = p.cols / N;
  for (int64_t row = blockIdx.x; row < live; row += gridDim.x)
    for (int at = static_cast<int>(threadIdx.x); at < vectors; at += static_cast<int>(blockDim.x)) {
      float sum[N] = {};
      for (int c = 0; c < p.choices; ++c) {
        const float weight = p.weights[row * p.weights_stride + c];
        const int64_t from = p.position[row * p.choices + c];
        const Vec<T, N> x = load_vec<T, N>(p.x + from * p.x_stride + static_cast<int64_t>(at) * N);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += weight * to_float(x.at[i]);
      }
      Vec<T, N> out;
#pragma unroll
      for (int i = 0; i < N; ++i) out.at[i] = from_float<T>(sum[i]);
      store_vec(p.out + row * p.out_stride + static_cast<int64_t>(at) * N, out);
    }
}

template <typename T, int N>
void launch_combine(const CombineParams<T>& p, int64_t rows, const Launch& launch) {
  const int64_t resident = static_cast<int64_t>(launch.sms) * 8;
  combine_kernel<T, N>
      <<<static_cast<unsigned>(std::min(rows, resident)), 256, 0, launch.stream>>>(p);
  check_launch("the sum over experts");
}

}  // namespace

void run(const MoeRouteArgs& args, const Launch& launch) {
  const int64_t rows = args.logits.rows();
  if (rows == 0) return;
  NANO_CHECK(args.logits.cols() <= kMaxExperts, "{} experts", args.logits.cols());
  const RouteParams p{.logits = static_cast<const float*>(args.logits.data()),
                      .logits_stride = args.logits.row_stride(),
                      .ids = static_cast<int32_t*>(args.expert_ids.data()),
                      .weights = static_cast<float*>(args.expert_weights.data()),
                      .ids_stride = args.expert_ids.row_stride(),
                      .weights_stride = args.expert_weights.row_stride(),
                      .experts = static_cast<int>(args.logits.cols()),
                      .choices = static_cast<int>(args.expert_ids.cols()),
                      .renormalize = args.renormalize,
                      .live = live_rows(launch, rows)};
  const int64_t resident = static_cast<int64_t>(launch.sms) * 16;
  const auto blocks = static_cast<unsigned>(std::min((rows + 3) / 4, resident));
  if (p.experts <= kWarp) {
    route_kernel<1><<<blocks, 128, 0, launch.stream>>>(p);
  } else if (p.experts <= 4 * kWarp) {
    route_kernel<4><<<blocks, 128, 0, launch.stream>>>(p);
  } else {
    route_kernel<kMaxExperts / kWarp><<<blocks, 128, 0, launch.stream>>>(p);
  }
  check_launch("expert routing");
}

void run(const MoeSortArgs& args, const Launch& launch) {
  const int64_t experts = args.offsets.rows() - 1;
  NANO_CHECK(experts <= kMaxExperts, "{} experts", experts);
  const SortParams p{.ids = static_cast<const int32_t*>(args.expert_ids.data()),
                     .ids_stride = args.expert_ids.row_stride(),
                     .order = static_cast<int32_t*>(args.order.data()),
                     .offsets = static_cast<int32_t*>(args.offsets.data()),
                     .experts = static_cast<int>(experts),
                     .choices = static_cast<int>(args.expert_ids.cols()),
                     .live = live_rows(launch, args.expert_ids.rows())};
  const int bytes = static_cast<int>(experts) * kSortWarps * 4;
  cuda_check(cudaFuncSetAttribute(sort_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(kMaxExperts) * kSortWarps * 4),
             "preparing the sort by expert");
  sort_kernel<<<1, kSortThreads, bytes, launch.stream>>>(p);
  check_launch("the sort by expert");
}

int64_t workspace_bytes(const MoeCombineArgs& args) {
  return args.order.rows() * 4;
}

void run(const MoeCombineArgs& args, const Launch& launch) {
  const int64_t rows = args.out.rows();
  if (args.out.empty()) return;
  NANO_CHECK(launch.workspace.size_bytes() >= workspace_bytes(args), "workspace {}",
             launch.workspace.to_string());
  auto* position = static_cast<int32_t*>(launch.workspace.data());
  const LiveRows live = live_rows(launch, rows);
  const int choices = static_cast<int>(args.expert_weights.cols());
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((args.order.rows() + 255) / 256, int64_t{launch.sms} * 8));
  invert_kernel<<<blocks, 256, 0, launch.stream>>>(static_cast<const int32_t*>(args.order.data()),
                                                   position, live, choices);
  check_launch("the inverse of the sort");
  const bool aligned = is_vector_aligned(args.out) && is_vector_aligned(args.x);
  with_act_type(args.out.dtype(), [&]<typename T>(T) {
    const CombineParams<T> p{.out = static_cast<T*>(args.out.data()),
                             .x = static_cast<const T*>(args.x.data()),
                             .weights = static_cast<const float*>(args.expert_weights.data()),
                             .position = position,
                             .out_stride = args.out.row_stride(),
                             .x_stride = args.x.row_stride(),
                             .weights_stride = args.expert_weights.row_stride(),
                             .cols = static_cast<int>(args.out.cols()),
                             .choices = choices,
                             .live = live};
    if (aligned) return launch_combine<T, 16 / sizeof(T)>(p, rows, launch);
    launch_combine<T, 1>(p, rows, launch);
  });
}

}  // namespace nanoflow::cuda
