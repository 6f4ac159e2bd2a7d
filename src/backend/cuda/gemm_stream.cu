// Products of few rows (small batches, single users): bound by reading the weights once.
//
// A block owns kTiles * 16 outputs of all rows; its warps share k. Per step a lane loads 16
// consecutive bytes of two weight rows per tile, so a quad reads 64 contiguous bytes of each of
// eight weight rows; tensor cores (m16n8k16) take the weights as their 16 x 16 operand and the
// batch as the 16 x 8 one. The sum over k may be taken in any order as long as both operands agree,
// so the eight elements of a lane's load fill the k slots of two instructions as they come, and no
// shuffle or shared memory is needed on the way.
#include <type_traits>

#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"
#include "backend/cuda/gemm.h"

namespace nanoflow::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kStepK = 32;  // elements of k that a warp takes at once
constexpr int kUnroll = 4;  // steps whose loads are in flight together

struct StreamParams {
  void* out;
  const void* a;
  const void* weight;
  const void* bias;  // null: none
  int n, k;
  int64_t a_stride, out_stride;
  int rows;                  // of the view
  int begin;                 // of the view in the batch
  const StepHeader* header;  // null: all rows live
};

/// 16 bytes that are read once: they need no place in L1.
__device__ __forceinline__ uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// kTiles tiles of 16 outputs, kGroups groups of 8 batch rows. k is a multiple of 8.
template <typename T, typename Out, int kTiles, int kGroups>
__global__ void __launch_bounds__(kThreads) stream_gemm_kernel(const StreamParams p) {
  const int live = p.header == nullptr ? p.rows : min(p.rows, p.header->num_rows - p.begin);
  if (live <= 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = lane / 4, quad = lane % 4;
  const int first = blockIdx.x * kTiles * 16;
  const T* const weight = static_cast<const T*>(p.weight);
  const T* const a = static_cast<const T*>(p.a);

  float sum[kTiles][kGroups][4] = {};
  // Steps of this warp: warp, warp + kWarps, ... of ceil(k / kStepK).
  const int num_steps = (p.k + kStepK - 1) / kStepK;
  for (int step = warp; step < num_steps; step += kWarps * kUnroll) {
    uint4 w[kUnroll][kTiles][2], x[kUnroll][kGroups];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int at = (step + u * kWarps) * kStepK + quad * 8;
      const bool inside = at < p.k;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first + t * 16 + half * 8 + group;
          w[u][t][half] = inside && row < p.n
                              ? load_stream(weight + static_cast<int64_t>(row) * p.k + at)
                              : uint4{0, 0, 0, 0};
        }
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int row = g * 8 + group;
        x[u][g] = inside && row < live
                      ? __ldg(reinterpret_cast<const uint4*>(a + row * p.a_stride + at))
                      : uint4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          mma<T>(sum[t][g], w[u][t][0].x, w[u][t][1].x, w[u][t][0].y, w[u][t][1].y, x[u][g].x,
                 x[u][g].y);
          mma<T>(sum[t][g], w[u][t][0].z, w[u][t][1].z, w[u][t][0].w, w[u][t][1].w, x[u][g].z,
                 x[u][g].w);
        }
      }
    }
  }

  // Lane (group, quad) holds outputs group and group + 8 of batch rows 2 quad and 2 quad + 1.
  constexpr int kOutputs = kTiles * 16, kRows = kGroups * 8;
  __shared__ float partial[kWarps][kRows][kOutputs + 1];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        partial[warp][g * 8 + quad * 2 + i % 2][t * 16 + group + i / 2 * 8] = sum[t][g][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kOutputs; i += kThreads) {
    const int row = i / kOutputs, column = i % kOutputs, output = first + column;
    if (row >= live || output >= p.n) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += partial[w][row][column];
    if (p.bias != nullptr) total += to_float(static_cast<const T*>(p.bias)[output]);
    static_cast<Out*>(p.out)[row * p.out_stride + output] = from_float<Out>(total);
  }
}

template <typename T, typename Out>
void launch_stream(const StreamParams& p, cudaStream_t stream) {
  // Two tiles halve the batch's traffic; one keeps all SMs busy where outputs are few.
  const bool wide = p.n >= 132 * 64;
  const int outputs = wide ? 32 : 16;
  const int blocks = (p.n + outputs - 1) / outputs;
  if (p.rows <= 8 && wide)
    stream_gemm_kernel<T, Out, 2, 1><<<blocks, kThreads, 0, stream>>>(p);
  else if (p.rows <= 8)
    stream_gemm_kernel<T, Out, 1, 1><<<blocks, kThreads, 0, stream>>>(p);
  else if (wide)
    stream_gemm_kernel<T, Out, 2, 2><<<blocks, kThreads, 0, stream>>>(p);
  else
    stream_gemm_kernel<T, Out, 1, 2><<<blocks, kThreads, 0, stream>>>(p);
  check_launch("stream_gemm");
}

}  // namespace

bool streams_well(const GemmArgs& args) {
  return args.out.rows() <= kMaxStreamRows;
}

void run_stream_gemm(const GemmArgs& args, const Launch& launch) {
  const StreamParams p{.out = args.out.data(),
                       .a = args.a.data(),
                       .weight = args.weight.data.data(),
                       .bias = args.bias.empty() ? nullptr : args.bias.data(),
                       .n = static_cast<int>(args.weight.n),
                       .k = static_cast<int>(args.weight.k),
                       .a_stride = args.a.row_stride(),
                       .out_stride = args.out.row_stride(),
                       .rows = static_cast<int>(args.out.rows()),
                       .begin = static_cast<int>(launch.rows.begin),
                       .header = launch.header};
  const bool wide_out = args.out.dtype() == DType::kF32;
  if (args.a.dtype() == DType::kBF16) {
    wide_out ? launch_stream<bf16, float>(p, launch.stream)
             : launch_stream<bf16, bf16>(p, launch.stream);
  } else {
    wide_out ? launch_stream<fp16, float>(p, launch.stream)
             : launch_stream<fp16, fp16>(p, launch.stream);
  }
}

}  // namespace nanoflow::cuda
