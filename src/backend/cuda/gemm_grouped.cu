// Grouped products for Hopper: a persistent kernel whose producer brings tiles by bulk copies and
// whose two warpgroups compute 64 outputs each of up to 256 tokens. The weights are the 64-row
// operand of wgmma and the tokens its columns, so that few tokens cost few columns. Which expert a
// tile belongs to is worked out on the device from the offsets.
#include <algorithm>

#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"
#include "backend/cuda/gemm_grouped.h"
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
constexpr int kStages = kTokens == kSmallTokenTile ? 8 : 4;
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

/// A tile of the output: tokens [row, row + rows) of an expert, weight tile `column`.
struct Tile {
  int expert = 0, column = 0, row = 0, rows = 0;
};

/// Walks a block's tiles in order; tokens change fastest, so that the blocks at work share weights.
class Tiles {
 public:
  __device__ Tiles(const GroupedParams& p, const int* first_tile, int tokens, int columns)
      : p_(p), first_tile_(first_tile), tokens_(tokens), columns_(columns), at_(blockIdx.x) {}
  __device__ bool next(Tile& tile) {
    if (at_ >= first_tile_[p_.experts] * columns_) return false;
    while (at_ >= first_tile_[expert_ + 1] * columns_) ++expert_;
    const int tiles = first_tile_[expert_ + 1] - first_tile_[expert_];
    const int local = at_ - first_tile_[expert_] * columns_;
    tile = {expert_, local / tiles, p_.offsets[expert_] + local % tiles * tokens_, 0};
    tile.rows = min(tokens_, p_.offsets[expert_ + 1] - tile.row);
    at_ += gridDim.x;
    return true;
  }

 private:
  const GroupedParams& p_;
  const int* first_tile_;
  int tokens_, columns_, expert_ = 0, at_;
};

/// One warp: token tiles before each expert.
__device__ void count_tiles(const GroupedParams& p, int tokens, int* first_tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int before = 0;
  for (int e0 = 0; e0 < p.experts; e0 += 32) {
    const int e = e0 + lane;
    int sum = e < p.experts ? (p.offsets[e + 1] - p.offsets[e] + tokens - 1) / tokens : 0;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, sum, step);
      if (lane >= step) sum += other;
    }
    if (e < p.experts) first_tile[e + 1] = before + sum;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) first_tile[0] = 0;
}

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

__device__ __forceinline__ void bulk_box_2d(uint32_t dst, const CUtensorMap* map, uint32_t bar,
                                            int x0, int x1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x0), "r"(x1)
      : "memory");
}

__device__ __forceinline__ void bulk_box_3d(uint32_t dst, const CUtensorMap* map, uint32_t bar,
                                            int x0, int x1, int x2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x0), "r"(x1), "r"(x2)
      : "memory");
}

/// One thread: the operands of all tiles, a stage per 64 elements of k.
template <int kTokens>
__device__ void produce(const GroupedParams& p, const GroupedMaps& maps, Shared& shared,
                        uint32_t stages_at, Tiles tiles) {
  constexpr int kBox = grouped_box_rows(kTokens);
  Ring<kStages<kTokens>> ring;
  for (Tile tile; tiles.next(tile);) {
    const int boxes = (tile.rows + kBox - 1) / kBox;
    for (int k = 0; k < p.k; k += kBlockK) {
      const uint32_t full = ptx::shared_address(&shared.full[ring.stage]);
      ptx::barrier_wait(ptx::shared_address(&shared.empty[ring.stage]), ring.parity ^ 1);
      ptx::barrier_expect(full, kWeightBytes + static_cast<uint32_t>(boxes * kBox * 128));
      const uint32_t at = stages_at + static_cast<uint32_t>(ring.stage) * kStageBytes<kTokens>;
      bulk_box_3d(at, &maps.weight, full, k, tile.column * 128, tile.expert);
      for (int b = 0; b < boxes; ++b)
        bulk_box_2d(at + kWeightBytes + static_cast<uint32_t>(b * kBox * 128), &maps.tokens, full,
                    k, tile.row + b * kBox);
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
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(ptx::shared_address(&shared.empty[stage]));
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

template <typename T, int kTokens>
__device__ void consume(const GroupedParams& p, Shared& shared, uint32_t stages_at,
                        uint32_t staging, Tiles tiles, int group) {
  Ring<kStages<kTokens>> ring;
  constexpr int kQuarter = kTokens / 4;
  for (Tile tile; tiles.next(tile);) {
    if (tile.rows <= kQuarter)
      compute<T, kQuarter, kTokens>(p, tile, shared, stages_at, staging, ring, group);
    else if (tile.rows <= 2 * kQuarter)
      compute<T, 2 * kQuarter, kTokens>(p, tile, shared, stages_at, staging, ring, group);
    else if (kTokens == kLargeTokenTile && tile.rows <= 3 * kQuarter)
      compute<T, kTokens == kLargeTokenTile ? 192 : 64, kTokens>(p, tile, shared, stages_at,
                                                                 staging, ring, group);
    else
      compute<T, kTokens, kTokens>(p, tile, shared, stages_at, staging, ring, group);
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
    ptx::barrier_init(ptx::shared_address(&shared.empty[thread]), kGroups * 4);
    ptx::fence_async();
  }
  if (group == 1 && thread % 128 < 32) count_tiles(p, kTokens, shared.first_tile);
  __syncthreads();
  const Tiles tiles(p, shared.first_tile, kTokens, (p.n + 127) / 128);
  if (group == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == kGroups * 128) produce<kTokens>(p, maps, shared, stages_at, tiles);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const uint32_t staging = stages_at + kStages<kTokens> * kStageBytes<kTokens> +
                             static_cast<uint32_t>(group) * kStagedTokens * 128;
    consume<T, kTokens>(p, shared, stages_at, staging, tiles, group);
  }
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
  kernel<<<static_cast<unsigned>(p.sms), kThreads, kBytes, stream>>>(p, maps);
  check_launch("a grouped product");
}

template <typename T>
void launch(const GroupedParams& p, const GroupedMaps& maps, int token_tile, cudaStream_t stream) {
  const bool large = token_tile == kLargeTokenTile;
  return large ? launch<T, kLargeTokenTile>(p, maps, stream)
               : launch<T, kSmallTokenTile>(p, maps, stream);
}

constexpr int kGatherThreads = 256, kGatherVectors = 2;

struct GatherParams {
  uint4* to;
  const char* from;
  int64_t pitch;  ///< bytes between rows of `from`
  int vectors;    ///< of 16 bytes in a row
  const int32_t *order, *offsets;
  int experts, per_token;
};

__global__ void __launch_bounds__(kGatherThreads) gather_kernel(const GatherParams p) {
  const int pairs = p.offsets[p.experts];
  for (int row = static_cast<int>(blockIdx.x); row < pairs; row += static_cast<int>(gridDim.x)) {
    const auto* from =
        reinterpret_cast<const uint4*>(p.from + p.order[row] / p.per_token * p.pitch);
    uint4* const to = p.to + static_cast<int64_t>(row) * p.vectors;
    for (int i = static_cast<int>(threadIdx.x); i < p.vectors;
         i += kGatherThreads * kGatherVectors) {
      const bool second = i + kGatherThreads < p.vectors;
      const uint4 a = from[i], b = second ? from[i + kGatherThreads] : uint4{};
      to[i] = a;
      if (second) to[i + kGatherThreads] = b;
    }
  }
}

}  // namespace

void launch_grouped_sm90(const GroupedParams& params, const GroupedMaps& maps, int token_tile,
                         cudaStream_t stream) {
  params.half ? launch<fp16>(params, maps, token_tile, stream)
              : launch<bf16>(params, maps, token_tile, stream);
}

void launch_gather_tokens(void* to, const TensorView& from, const GroupedGemmArgs& args,
                          const Launch& launch) {
  const int64_t element = dtype_size(from.dtype());
  const GatherParams p{.to = static_cast<uint4*>(to),
                       .from = static_cast<const char*>(from.data()),
                       .pitch = from.row_stride() * element,
                       .vectors = static_cast<int>(from.cols() * element / 16),
                       .order = static_cast<const int32_t*>(args.order.data()),
                       .offsets = static_cast<const int32_t*>(args.offsets.data()),
                       .experts = static_cast<int>(args.weight.experts),
                       .per_token = static_cast<int>(args.experts_per_token)};
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(args.out.rows(), int64_t{launch.sms} * 8));
  gather_kernel<<<blocks, kGatherThreads, 0, launch.stream>>>(p);
  check_launch("gathering tokens by expert");
}

}  // namespace nanoflow::cuda
