// Grouped products for Hopper: a persistent kernel whose producer brings tiles by bulk copies and
// whose two warpgroups compute 64 outputs each of up to 256 tokens. The weights are the 64-row
// operand of wgmma and the tokens its columns, so that few tokens cost few columns: tiles have as
// many as their tokens take in sixteens. With more than a few tokens the path from the L2 cache to
// the multiprocessors is the narrowest: two blocks then work beside each other on the same tokens,
// each brings half of them, and the copies go to both. Which expert a tile belongs to is worked out
// on the device from the offsets.
#include <algorithm>
#include <utility>

#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"
#include "backend/cuda/gemm_cluster.cuh"
#include "backend/cuda/gemm_grouped.h"
#include "backend/cuda/gemm_tiles.cuh"
#include "backend/cuda/gemm_wgmma.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kGroups = 2;  // consuming warpgroups
constexpr int kThreads = (kGroups + 1) * 128;
constexpr uint32_t kWeightBytes = 128 * 128;  // 128 rows of the weights
constexpr int kStagedTokens = 64;             // of the epilogue at a time
constexpr uint32_t kStagingBytes = kGroups * kStagedTokens * 128;

template <int kTokens>
constexpr uint32_t kStageBytes = kWeightBytes + kTokens * 128;
template <int kTokens>
constexpr int kStages = kTokens == kSmallTokenTile    ? 8
                        : kTokens == kMiddleTokenTile ? 5
                                                      : 4;
/// Blocks of a cluster, which share their tokens.
template <int kTokens>
constexpr int kCluster = kTokens == kSmallTokenTile ? 1 : 2;
template <int kTokens>
constexpr int kSharedBytes = static_cast<int>(kStages<kTokens>* kStageBytes<kTokens> +
                                              kStagingBytes) +
                             1024;

struct Shared {
  uint64_t full[8], empty[8];
  int first_tile[kMaxExperts + 1];  // token tiles before each expert
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr int kBlockK = 64;  // elements: 128 bytes, a swizzled row

template <int kCount>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kCount) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// One thread: the operands of all tiles, a stage per 64 elements of k. Blocks of a cluster take
/// turns at the boxes of tokens; a stage is empty when all of them have used it.
template <int kTokens>
__device__ void produce(const GroupedParams& p, const GroupedMaps& maps, Shared& shared,
                        uint32_t stages_at, Tiles<kCluster<kTokens>> tiles) {
  constexpr int kBlocks = kCluster<kTokens>;
  constexpr uint32_t kBoxBytes = kGroupedBoxRows * 128;
  Ring<kStages<kTokens>> ring;
  for (Tile tile; tiles.next(tile);) {
    const int boxes = (tile.rows + kGroupedBoxRows - 1) / kGroupedBoxRows;
    for (int k = 0; k < p.k; k += kBlockK) {
      const uint32_t full = ptx::shared_address(&shared.full[ring.stage]);
      ptx::barrier_wait(ptx::shared_address(&shared.empty[ring.stage]), ring.parity ^ 1);
      ptx::barrier_expect(full, kWeightBytes + static_cast<uint32_t>(boxes) * kBoxBytes);
      const uint32_t at = stages_at + static_cast<uint32_t>(ring.stage) * kStageBytes<kTokens>;
      cluster::bulk_box_3d(at, &maps.weight, full, k, tile.column * 128, tile.expert);
      for (int b = static_cast<int>(blockIdx.x) % kBlocks; b < boxes; b += kBlocks) {
        const uint32_t to = at + kWeightBytes + static_cast<uint32_t>(b) * kBoxBytes;
        const int row = tile.row + b * kGroupedBoxRows;
        if constexpr (kBlocks > 1)
          cluster::bulk_box_2d_to((1 << kBlocks) - 1, to, &maps.tokens, full, k, row);
        else
          cluster::bulk_box_2d(to, &maps.tokens, full, k, row);
      }
      ring.advance();
    }
  }
}

__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t r0,
                                                          uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(r0), "r"(r1), "r"(r2), "r"(r3)
      : "memory");
}

/// A warpgroup's share of an output tile leaves through shared memory, 64 tokens at a time: rows of
/// 64 outputs, whose 16-byte chunks are permuted against bank conflicts.
template <typename T, int kRegs>
__device__ void store(const GroupedParams& p, const Tile& tile, const float (&sum)[kRegs],
                      uint32_t staging, int group) {
  constexpr int kChunks = 8;  // 16-byte pieces of a row
  constexpr int kN = kRegs * 2;
  const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32, warp = thread / 32;
  const auto at = [&](int token, int chunk) {
    return staging + static_cast<uint32_t>(token * kChunks * 16 + (chunk ^ token % 8) * 16);
  };
  const int first_column = tile.column * 128 + group * kChunks * 8;
  T* const out = static_cast<T*>(p.out);
#pragma unroll
  for (int t0 = 0; t0 < kN; t0 += kStagedTokens) {
    if (t0 >= tile.rows) break;
    ptx::named_barrier(1 + group, 128);  // the last rows have been read
#pragma unroll
    for (int t = t0; t < min(kN, t0 + kStagedTokens); t += 16) {
      const float* d = sum + t / 2;
      uint32_t r[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) r[j] = ptx::pack<T>(d[2 * j], d[2 * j + 1]);
      store_matrices_transposed(at(t - t0 + lane / 16 * 8 + lane % 8, warp * 2 + lane / 8 % 2),
                                r[0], r[1], r[2], r[3]);
    }
    ptx::named_barrier(1 + group, 128);
    for (int i = thread; i < min(kN, kStagedTokens) * kChunks; i += 128) {
      const int token = i / kChunks, chunk = i % kChunks;
      const int column = first_column + chunk * 8;
      if (t0 + token >= tile.rows || column >= p.n) continue;
      uint4 v;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                   : "r"(at(token, chunk))
                   : "memory");
      *reinterpret_cast<uint4*>(out + static_cast<int64_t>(tile.row + t0 + token) * p.out_stride +
                                column) = v;
    }
  }
}

/// A warpgroup's 64 weight rows times kN tokens.
template <typename T, int kN, int kTokens>
__device__ void compute(const GroupedParams& p, const Tile& tile, Shared& shared,
                        uint32_t stages_at, uint32_t staging, Ring<kStages<kTokens>>& ring,
                        int group) {
  float sum[kN / 2] = {};  // not cleared by the first product: that spilled registers at N = 256
  const auto release = [&](int stage) {
    const uint32_t empty = ptx::shared_address(&shared.empty[stage]), lane = threadIdx.x % 32;
    if constexpr (kCluster < kTokens >> 1) {
      if (lane < kCluster<kTokens>) cluster::arrive_at(empty, lane);
    } else if (lane == 0) {
      ptx::barrier_arrive(empty);
    }
  };
  int behind = 0;
  for (int k = 0; k < p.k; k += kBlockK) {
    ptx::barrier_wait(ptx::shared_address(&shared.full[ring.stage]), ring.parity);
    const uint32_t at = stages_at + static_cast<uint32_t>(ring.stage) * kStageBytes<kTokens>;
    const uint64_t weight =
        wgmma::descriptor(at + static_cast<uint32_t>(group) * 64 * 128, 16, 1024);
    const uint64_t tokens = wgmma::descriptor(at + kWeightBytes, 16, 1024);
    wgmma::pin(sum);
    wgmma::fence();
#pragma unroll
    for (int i = 0; i < kBlockK / 16; ++i)  // 32 bytes of k at a time
      wgmma::product<T>(sum, weight + static_cast<uint64_t>(2 * i),
                        tokens + static_cast<uint64_t>(2 * i), 1);
    wgmma::commit();
    wgmma::pin(sum);
    if (k > 0) {
      wgmma::wait<1>();
      release(behind);
    }
    behind = ring.stage;
    ring.advance();
  }
  wgmma::wait<0>();
  wgmma::pin(sum);
  release(behind);
  store<T>(p, tile, sum, staging, group);
}

/// kSteps: 0, 1, ... of the widths that a tile of at most kTokens can have.
template <typename T, int kTokens, int... kSteps>
__device__ void consume(const GroupedParams& p, Shared& shared, uint32_t stages_at,
                        uint32_t staging, Tiles<kCluster<kTokens>> tiles, int group,
                        std::integer_sequence<int, kSteps...>) {
  Ring<kStages<kTokens>> ring;
  for (Tile tile; tiles.next(tile);) {
    const int steps = (tile.rows + kGroupedBoxRows - 1) / kGroupedBoxRows;
    const auto try_width = [&]<int kN>(std::integral_constant<int, kN>) {
      if (steps * kGroupedBoxRows != kN) return false;
      compute<T, kN, kTokens>(p, tile, shared, stages_at, staging, ring, group);
      return true;
    };
    (try_width(std::integral_constant<int, (kSteps + 1) * kGroupedBoxRows>{}) || ...);
  }
}
#endif

template <typename T, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const GroupedParams p, const __grid_constant__ GroupedMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ char dynamic[];
  __shared__ Shared shared;
  const uint32_t stages_at = (ptx::shared_address(dynamic) + 1023) / 1024 * 1024;
  const int thread = static_cast<int>(threadIdx.x), group = thread / 128;
  if (thread < kStages<kTokens>) {
    ptx::barrier_init(ptx::shared_address(&shared.full[thread]), 1);
    ptx::barrier_init(ptx::shared_address(&shared.empty[thread]), kGroups * 4 * kCluster<kTokens>);
    if constexpr (kCluster < kTokens >> 1) cluster::fence_barrier_init();
    ptx::fence_async();
  }
  if (group == 1 && thread % 128 < 32) count_tiles(p, kTokens, shared.first_tile);
  __syncthreads();
  if constexpr (kCluster < kTokens >> 1) cluster::sync();
  const Tiles<kCluster<kTokens>> tiles(p, shared.first_tile);
  if (group == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == kGroups * 128) produce<kTokens>(p, maps, shared, stages_at, tiles);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const uint32_t staging = stages_at + kStages<kTokens> * kStageBytes<kTokens> +
                             static_cast<uint32_t>(group) * kStagedTokens * 128;
    consume<T, kTokens>(p, shared, stages_at, staging, tiles, group,
                        std::make_integer_sequence<int, kTokens / kGroupedBoxRows>{});
  }
  // The other block may yet arrive at this one's barriers.
  if constexpr (kCluster < kTokens >> 1) cluster::sync();
#else
  __trap();  // built for sm_90 without its own instructions: better loud than wrong
#endif
}

template <typename T, int kTokens>
void launch(const GroupedParams& p, const GroupedMaps& maps, cudaStream_t stream) {
  const auto kernel = grouped_kernel<T, kTokens>;
  constexpr int kBytes = kSharedBytes<kTokens>;
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "shared memory for grouped products");
  constexpr unsigned kBlocks = kCluster<kTokens>;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(std::max(1U, static_cast<unsigned>(p.sms) / kBlocks) * kBlocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cuda_check(cudaLaunchKernelEx(&config, kernel, p, maps), "a grouped product");
}

template <typename T>
void launch(const GroupedParams& p, const GroupedMaps& maps, int token_tile, cudaStream_t stream) {
  switch (token_tile) {
    case kSmallTokenTile: return launch<T, kSmallTokenTile>(p, maps, stream);
    case kMiddleTokenTile: return launch<T, kMiddleTokenTile>(p, maps, stream);
    default: return launch<T, kLargeTokenTile>(p, maps, stream);
  }
}

}  // namespace

void launch_grouped_sm90(const GroupedParams& params, const GroupedMaps& maps, int token_tile,
                         cudaStream_t stream) {
  params.half ? launch<fp16>(params, maps, token_tile, stream)
              : launch<bf16>(params, maps, token_tile, stream);
}

}  // namespace nanoflow::cuda
