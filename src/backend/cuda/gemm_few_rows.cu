// out[m, n] = a[m, k] * weight[n, k]^T for at most 16 rows: bound by reading the weights once.
//
// A block owns 16 rows of the weights; its eight warps share k and add their sums in shared memory,
// in one order. Weights go from memory to registers, 16 bytes a lane, kDepth loads of two lines
// ahead: 2 blocks x 256 lanes x 64 bytes x kDepth = 96 KiB in flight per SM, where 4.6 TB/s at a
// microsecond of latency need 35. They do not pass shared memory, since nobody reads them twice.
//
// mma.m16n8k16 with the weights as the 16-row side and the tokens as the 8-column side. Which k
// stands in which of the instruction's 16 slots is free as long as both sides agree, so that a
// lane's eight consecutive elements serve two instructions and no shuffle is needed.
#include <algorithm>
#include <type_traits>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dependent.cuh"
#include "backend/cuda/element.cuh"
#include "backend/cuda/gemm_few_rows.h"

namespace nanoflow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kVector = 8;                  ///< elements of a 16-byte load
constexpr int kChunk = 4 * kVector;         ///< k of two mma: four lanes' vectors
constexpr int kStep = 2 * kChunk;           ///< k of a warp's step: a 128-byte line of each row
constexpr int kBlockStep = kWarps * kStep;  ///< k of a block's step

/// How a kernel for kGroups groups of eight tokens is cut.
template <int kGroups>
struct Cut {
  static constexpr int kTiles = kGroups;      ///< of 16 weight rows
  static constexpr int kRows = 16 * kTiles;   ///< weight rows of a block
  static constexpr int kDepth = 4 - kGroups;  ///< steps in flight
  static constexpr int kTokens = 8 * kGroups;
};

template <typename T, typename Out>
struct FewRowsParams {
  const T* a;
  int64_t a_stride;
  const T* weight;
  const T* bias;  ///< or null
  Out* out;
  int64_t out_stride;
  int rows, n, k;
  LiveRows live;
};

/// 16 bytes of weights: read once, so they shall not push the activations out of L1.
__device__ __forceinline__ uint4 load_weights(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

template <typename T>
__device__ __forceinline__ void multiply(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// A lane's share of a step: of each tile two weight rows (g and g + 8), of each group one token.
template <int kCount>
struct LaneStep {
  uint4 at[kCount][2];  // [row or token][chunk]
};

template <typename T, typename Out, int kGroups>
__global__ void __launch_bounds__(kThreads, 2) few_rows_kernel(FewRowsParams<T, Out> p) {
  using C = Cut<kGroups>;
  using Weights = LaneStep<2 * C::kTiles>;
  using Tokens = LaneStep<kGroups>;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int first = static_cast<int>(blockIdx.x) * C::kRows;
  const int k_lane = warp * kStep + t * kVector;  // of this lane in the block's first step
  const uint4 nothing{0, 0, 0, 0};
  // Rows behind the last are read as the last and not stored.
  const T* rows[2 * C::kTiles];
#pragma unroll
  for (int r = 0; r < 2 * C::kTiles; ++r)
    rows[r] = p.weight + static_cast<int64_t>(min(first + g + 8 * r, p.n - 1)) * p.k;
  const auto load_weight_step = [&](int k0, Weights& step) {
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int r = 0; r < 2 * C::kTiles; ++r) {
        const int k = k0 + c * kChunk;
        step.at[r][c] = k < p.k ? load_weights(rows[r] + k) : nothing;
      }
  };

  Weights ahead[C::kDepth];
#pragma unroll
  for (int d = 0; d < C::kDepth; ++d) load_weight_step(k_lane + d * kBlockStep, ahead[d]);
  let_next_start();
  wait_for_previous();  // weights are nobody's result; everything below may be
  const int live = min(p.live.count(), p.rows);
  if (live <= 0) return;

  const auto load_token_step = [&](int k0, Tokens& step) {
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int token = group * 8 + g, k = k0 + c * kChunk;
        step.at[group][c] = token < live && k < p.k
                                ? *reinterpret_cast<const uint4*>(p.a + token * p.a_stride + k)
                                : nothing;
      }
  };
  float sums[C::kTiles][kGroups][4] = {};
  const auto multiply_step = [&](const Weights& w, const Tokens& x) {
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int tile = 0; tile < C::kTiles; ++tile) {
        const uint4 &low = w.at[2 * tile][c], &high = w.at[2 * tile + 1][c];
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          const uint4& v = x.at[group][c];
          multiply<T>(sums[tile][group], low.x, high.x, low.y, high.y, v.x, v.y);
          multiply<T>(sums[tile][group], low.z, high.z, low.w, high.w, v.z, v.w);
        }
      }
  };
  Tokens tokens;
  load_token_step(k_lane, tokens);
  for (int k0 = k_lane; k0 - k_lane < p.k; k0 += C::kDepth * kBlockStep)
#pragma unroll
    for (int d = 0; d < C::kDepth; ++d) {
      Tokens next;
      load_token_step(k0 + (d + 1) * kBlockStep, next);
      const Weights step = ahead[d];
      load_weight_step(k0 + (d + C::kDepth) * kBlockStep, ahead[d]);
      multiply_step(step, tokens);
      tokens = next;
    }

  // An odd stride keeps a warp's writes on different banks.
  __shared__ float partial[kWarps][C::kTokens][C::kRows + 1];
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile)
#pragma unroll
    for (int group = 0; group < kGroups; ++group)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        partial[warp][group * 8 + t * 2 + i % 2][tile * 16 + g + i / 2 * 8] = sums[tile][group][i];
  __syncthreads();
  for (int at = static_cast<int>(threadIdx.x); at < live * C::kRows; at += kThreads) {
    const int token = at / C::kRows, row = at % C::kRows;
    if (first + row >= p.n) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += partial[w][token][row];
    if (p.bias != nullptr) sum += to_float(p.bias[first + row]);
    p.out[token * p.out_stride + first + row] = from_float<Out>(sum);
  }
}

template <typename T, typename Out>
void launch_few_rows(const GemmArgs& args, const Launch& launch) {
  const int64_t rows = args.out.rows();
  const FewRowsParams<T, Out> p{
      .a = static_cast<const T*>(args.a.data()),
      .a_stride = args.a.row_stride(),
      .weight = static_cast<const T*>(args.weight.data.data()),
      .bias = args.bias.empty() ? nullptr : static_cast<const T*>(args.bias.data()),
      .out = static_cast<Out*>(args.out.data()),
      .out_stride = args.out.row_stride(),
      .rows = static_cast<int>(rows),
      .n = static_cast<int>(args.weight.n),
      .k = static_cast<int>(args.weight.k),
      .live = live_rows(launch, rows)};
  const auto launch_cut = [&]<int kGroups>(std::integral_constant<int, kGroups>) {
    constexpr int64_t kRows = Cut<kGroups>::kRows;
    const auto blocks = static_cast<unsigned>((args.weight.n + kRows - 1) / kRows);
    launch_dependent(few_rows_kernel<T, Out, kGroups>, blocks, kThreads, 0, rows, launch,
                     "launching a product of few rows", p);
  };
  if (rows <= 8) return launch_cut(std::integral_constant<int, 1>{});
  launch_cut(std::integral_constant<int, 2>{});
}

template <typename T>
void choose_result(const GemmArgs& args, const Launch& launch) {
  if (args.out.dtype() == DType::kF32) return launch_few_rows<T, float>(args, launch);
  launch_few_rows<T, T>(args, launch);
}

}  // namespace

bool supports_few_rows(const GemmArgs& args, const DeviceLimits& device) {
  const DType dtype = args.a.dtype();
  const auto aligned = [](const TensorView& v) {
    return reinterpret_cast<uintptr_t>(v.data()) % 16 == 0 && v.row_stride() % kVector == 0;
  };
  return device.compute_major >= 8 && args.out.rows() <= kFewRows &&
         (dtype == DType::kBF16 || dtype == DType::kF16) && args.weight.layout == 0 &&
         args.weight.experts == 1 && args.weight.data.dtype() == dtype && args.weight.k > 0 &&
         args.weight.data.row_stride() == args.weight.k && aligned(args.a) &&
         aligned(args.weight.data) && (args.bias.empty() || args.bias.dtype() == dtype) &&
         (args.out.dtype() == dtype || args.out.dtype() == DType::kF32);
}

void run_few_rows(const GemmArgs& args, const Launch& launch) {
  if (args.out.empty()) return;
  if (args.a.dtype() == DType::kBF16) return choose_result<bf16>(args, launch);
  choose_result<fp16>(args, launch);
}

}  // namespace nanoflow::cuda
