// Decode attention: one query row against its sequence's pages. All (row, KV head, page) tiles of
// the launch form one line that the blocks share evenly, so uneven lengths cost nothing; a producer
// warp streams a block's tiles through a ring of shared memory, groups of four warps take the
// sequences in turn, and each warp keeps its own running softmax over 16 keys of every tile.
// Sequences cut by a block's border are merged by a second, tiny kernel.
#include <cuda_runtime.h>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/attention_ptx.cuh"
#include "backend/cuda/attention_running.cuh"
#include "backend/cuda/attention_share.cuh"
#include "backend/cuda/attention_tiles.cuh"
#include "backend/cuda/cuda.h"
#include "backend/cuda/dependent.cuh"

namespace nanoflow::cuda {
namespace decode {
namespace {

/// The producer warp: every tile of the share, in order, K, V and with a unit's first tile its
/// query rows.
template <typename T, int D>
__device__ void produce(const AttentionParams& p, const KvMaps& maps, Walk walk, uint32_t stages_at,
                        const Plan& plan, Control& c) {
  constexpr int kTileBytes = kAttentionPage * D * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int q_bytes = p.group * p.head_dim * 2;
  Ring ring;
  int row = -1, base = 0;
  for (; !walk.done(); walk.next()) {
    const Unit& u = walk.unit();
    if (u.row != row) {
      row = u.row;
      base = __ldg(p.page_indptr + __ldg(p.row_seq + row)) + u.span.first_page(p);
    }
    const T* q = static_cast<const T*>(p.q) + row * p.q_stride +
                 static_cast<int64_t>(u.head) * p.group * p.head_dim;
    int pages = 0;
    for (int i = 0; i < u.count; ++i) {
      if (i % 32 == 0 && i + lane < u.count)
        pages = __ldg(p.page_indices + base + u.tile + i + lane);
      const int page = __shfl_sync(~0u, pages, i % 32);
      const uint32_t full = ptx::shared_address(&c.full[ring.stage]);
      const uint32_t k_at = stages_at + static_cast<uint32_t>(ring.stage * plan.stage_bytes);
      const bool with_q = i == 0;
      ptx::barrier_wait(ptx::shared_address(&c.empty[ring.stage]), ring.parity ^ 1);
#if __CUDA_ARCH__ >= 900
      if (p.bulk) {
        if (lane == 0) {
          ptx::barrier_expect(full, static_cast<uint32_t>(2 * kTileBytes + (with_q ? q_bytes : 0)));
          ptx::bulk_box(k_at, &maps.k, full, 0, 0, 0, u.head, page);
          if (with_q)
            ptx::bulk_copy(k_at + 2 * kTileBytes, q, static_cast<uint32_t>(q_bytes), full);
          ptx::bulk_box(k_at + kTileBytes, &maps.v, full, 0, 0, 0, u.head, page);
        }
        ring.advance(plan.stages, 1);
        continue;
      }
#endif
      const int valid = u.span.end - (u.span.first_page(p) + u.tile + i) * kAttentionPage;
      copy_tile<T, D>(k_at, p.k, p, page, u.head, valid, lane, 32);
      copy_tile<T, D>(k_at + kTileBytes, p.v, p, page, u.head, valid, lane, 32);
      if (with_q)
        for (int at = lane * 16; at < q_bytes; at += 512)
          ptx::copy16(k_at + 2 * kTileBytes + at, reinterpret_cast<const char*>(q) + at, true);
      ptx::copy_arrive(full);
      ring.advance(plan.stages, 1);
    }
  }
  ptx::copy_wait<0>();
}

/// Adds the group's four warps' results and writes the unit's output, or its part of a split one.
template <typename T, int D, int kHeads>
__device__ void finish(const AttentionParams& p, const Unit& u, Running<T, D, kHeads>& run,
                       float* buffer, int merge_rows, Control& c) {
  constexpr int kThreads = kGroupWarps * 32, kStride = merge_stride(D);
  const int thread = static_cast<int>(threadIdx.x) % kThreads, lane = thread % 32;
  const int group = static_cast<int>(threadIdx.x) / kThreads, warp0 = group * kGroupWarps;
  const int warp = warp0 + thread / 32;
  const bool whole = u.begins() && u.ends(p);
  const int which = u.begins() ? 1 : 0;
  float* split = split_data(p, static_cast<int>(gridDim.x), static_cast<int>(blockIdx.x), which);
#pragma unroll
  for (int n = 0; n < kHeads; ++n) {
    const int row0 = n * 8, rows = min(p.group - row0, 8);
    if (rows <= 0) break;
    ptx::named_barrier(1 + group, kThreads);  // the buffer's last readers are done
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = lane % 4 * 2 + h;
      float sum = run.sum[n][h];
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (head >= rows) continue;
      float* to = buffer + (warp * merge_rows + head) * kStride + lane / 4;
#pragma unroll
      for (int i = 0; i < D / 16; ++i) {
        to[i * 16] = run.out[i][n][h];
        to[i * 16 + 8] = run.out[i][n][h + 2];
      }
      if (lane < 4) {
        c.max[warp][head] = run.max[n][h];
        c.sum[warp][head] = sum;
      }
    }
    ptx::named_barrier(1 + group, kThreads);
    for (int i = thread; i < rows * (D / 4); i += kThreads) {
      const int row = i / (D / 4), col = i % (D / 4) * 4;
      if (col >= p.head_dim) continue;
      float top = -INFINITY, sum = 0;
#pragma unroll
      for (int w = 0; w < kGroupWarps; ++w) top = fmaxf(top, c.max[warp0 + w][row]);
      float4 total = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kGroupWarps; ++w) {
        const float factor = ptx::exp2_fast(c.max[warp0 + w][row] - top);
        const float4 part = *reinterpret_cast<const float4*>(
            buffer + ((warp0 + w) * merge_rows + row) * kStride + col);
        sum += c.sum[warp0 + w][row] * factor;
        total.x += part.x * factor;
        total.y += part.y * factor;
        total.z += part.z * factor;
        total.w += part.w * factor;
      }
      if (whole) {
        const float scale = 1 / sum;
        store4<T>(static_cast<T*>(p.out) + u.row * p.out_stride +
                      static_cast<int64_t>(u.head * p.group + row0 + row) * p.head_dim + col,
                  {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
      } else {
        *reinterpret_cast<float4*>(split + (row0 + row) * p.head_dim + col) = total;
        if (col == 0) {
          split[p.group * p.head_dim + row0 + row] = top;
          split[p.group * (p.head_dim + 1) + row0 + row] = sum;
        }
      }
    }
  }
  if (!whole && thread == 0)
    *split_at(p, static_cast<int>(blockIdx.x), which) = {
        u.row, u.head, u.begins() ? last_block_of(p, u, c) : 0, 0};
}

/// A consumer warp: every tile of its group's units. The groups take units in turn. A group looks
/// at the ring only after the one before it has seen its last tile: a barrier tells a phase from
/// the next one but not from the one after that.
template <typename T, int D, int kHeads>
__device__ void consume(const AttentionParams& p, Walk walk, uint32_t stages_at, float* buffer,
                        const Plan& plan, Control& c) {
  constexpr int kGroups = tile_groups(D), kTileBytes = kAttentionPage * D * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / kGroupWarps;
  const int key0 = warp % kGroupWarps * 16;
  Ring ring;
  Running<T, D, kHeads> run;
  uint32_t q[D / 16][kHeads][2];
  int turn = 0;  // group of the unit
  uint32_t turn_parity = 0;
  for (bool first_unit = true; !walk.done(); walk.next(), first_unit = false) {
    const Unit& u = walk.unit();
    if (turn != group) {
      ring.advance(plan.stages, u.count);
      turn = turn + 1 == kGroups ? 0 : turn + 1;
      continue;
    }
    turn = turn + 1 == kGroups ? 0 : turn + 1;
    if (kGroups > 1 && !first_unit) {
      ptx::barrier_wait(ptx::shared_address(&c.turn[group]), turn_parity);
      turn_parity ^= 1;
    }
    run.clear();
    int lo = u.span.begin(p) - (u.span.first_page(p) + u.tile) * kAttentionPage;
    int hi = u.span.end - (u.span.first_page(p) + u.tile) * kAttentionPage;
    for (int i = 0; i < u.count; ++i, lo -= kAttentionPage, hi -= kAttentionPage) {
      ptx::barrier_wait(ptx::shared_address(&c.full[ring.stage]), ring.parity);
      if (kGroups > 1 && i + 1 == u.count && lane == 0)
        ptx::barrier_arrive(ptx::shared_address(&c.turn[turn]));
      const uint32_t k_at = stages_at + static_cast<uint32_t>(ring.stage * plan.stage_bytes);
      if (i == 0) load_queries<D, kHeads>(q, k_at + 2 * kTileBytes, p.group, p.head_dim);
      if (lo <= key0 && key0 + 16 <= hi)
        run.template add<true>(q, k_at, k_at + kTileBytes, key0, lo, hi, p.scale_log2);
      else if (key0 < hi && key0 + 16 > lo)
        run.template add<false>(q, k_at, k_at + kTileBytes, key0, lo, hi, p.scale_log2);
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(ptx::shared_address(&c.empty[ring.stage]));
      ring.advance(plan.stages, 1);
    }
    finish<T, D, kHeads>(p, u, run, buffer, plan.merge_rows, c);
  }
}

__device__ int live_decodes(const AttentionParams& p) {
  const int live = min(*p.live_rows, *p.decode_rows) - p.row_begin;
  return max(0, min(live, p.num_rows));
}

template <typename T, int D, int kHeads>
__global__ void __launch_bounds__(block_threads(D), 1)
    decode_kernel(const AttentionParams p, const __grid_constant__ KvMaps maps, const Plan plan) {
  extern __shared__ char shared[];
  const uint32_t aligned = (ptx::shared_address(shared) + 1023) / 1024 * 1024;
  char* base = shared + (aligned - ptx::shared_address(shared));
  auto* buffer = reinterpret_cast<float*>(base + plan.stages * plan.stage_bytes);
  auto& c =
      *reinterpret_cast<Control*>(buffer + consumer_warps(D) * plan.merge_rows * merge_stride(D));
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < plan.stages) {
    ptx::barrier_init(ptx::shared_address(&c.full[thread]), p.bulk ? 1 : 32);
    ptx::barrier_init(ptx::shared_address(&c.empty[thread]), kGroupWarps);
    ptx::fence_async();
  }
  if (thread < tile_groups(D)) ptx::barrier_init(ptx::shared_address(&c.turn[thread]), kGroupWarps);
#if __CUDA_ARCH__ >= 900
  if (thread == 32 && p.bulk) {
    ptx::prefetch_map(&maps.k);
    ptx::prefetch_map(&maps.v);
  }
#endif
  wait_for_previous();
  if (thread < 2) split_at(p, static_cast<int>(blockIdx.x), thread)->row = -1;
  const int rows = live_decodes(p);
  const int tiles = find_share(p, c, rows);
  if (tiles == 0) return;
  if (thread / 32 == consumer_warps(D))
    produce<T, D>(p, maps, Walk(p, c, rows, tiles), aligned, plan, c);
  else
    consume<T, D, kHeads>(p, Walk(p, c, rows, tiles), aligned, buffer, plan, c);
  let_next_start();
}

/// Block b adds the parts of the sequence that begins in decode block b and ends behind it.
template <typename T>
__global__ void __launch_bounds__(128) merge_kernel(const AttentionParams p) {
  extern __shared__ float maxima[];  // [parts][group]
  wait_for_previous();
  // No let_next_start(): an SM gives shared memory back to L1 only when it is empty, and the
  // product behind this needs L1 (a step of 8 rows took 5.6 ms instead of 4.9).
  const int first = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x);
  const Split split = *split_at(p, first, 1);
  if (split.row < 0) return;
  const int parts = split.last_block - first + 1;
  const auto part = [&](int i) { return split_data(p, blocks, first + i, i == 0 ? 1 : 0); };
  const int max_at = p.group * p.head_dim, sum_at = max_at + p.group;
  for (int i = thread; i < parts * p.group; i += 128)
    maxima[i] = part(i / p.group)[max_at + i % p.group];
  __syncthreads();
  for (int i = thread * 4; i < max_at; i += 512) {
    const int row = i / p.head_dim;
    float top = -INFINITY, sum = 0;
    for (int b = 0; b < parts; ++b) top = fmaxf(top, maxima[b * p.group + row]);
    float4 total = {0, 0, 0, 0};
#pragma unroll 8
    for (int b = 0; b < parts; ++b) {
      const float* from = part(b);
      const float factor = ptx::exp2_fast(maxima[b * p.group + row] - top);
      const float4 x = *reinterpret_cast<const float4*>(from + i);
      sum += from[sum_at + row] * factor;
      total.x += x.x * factor;
      total.y += x.y * factor;
      total.z += x.z * factor;
      total.w += x.w * factor;
    }
    const float scale = 1 / sum;
    store4<T>(static_cast<T*>(p.out) + split.row * p.out_stride +
                  static_cast<int64_t>(split.head) * max_at + i,
              {total.x * scale, total.y * scale, total.z * scale, total.w * scale});
  }
}

template <typename T, int D, int kHeads>
void launch(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
            cudaStream_t stream) {
  const Plan plan = plan_shared(p.group, p.head_dim, D, device.shared_bytes_per_block);
  cuda_check(cudaFuncSetAttribute(decode_kernel<T, D, kHeads>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, plan.bytes),
             "shared memory for decode attention");
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  const unsigned overlaps = device.compute_major >= 9 ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(p.sms);
  config.blockDim = block_threads(D);
  config.dynamicSmemBytes = static_cast<size_t>(plan.bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = p.num_rows <= kDependentRows ? overlaps : 0;
  cuda_check(cudaLaunchKernelEx(&config, decode_kernel<T, D, kHeads>, p, maps, plan),
             "launching decode attention");
  config.blockDim = 128;
  config.dynamicSmemBytes = static_cast<size_t>(p.sms) * static_cast<size_t>(p.group) * 4;
  config.numAttrs = overlaps;
  cuda_check(cudaLaunchKernelEx(&config, merge_kernel<T>, p), "launching the merge of attention");
}

template <typename T, int kHeads>
void launch_heads(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
                  cudaStream_t stream) {
  switch (compiled_head_dim(p.head_dim)) {
    case 64: return launch<T, 64, kHeads>(p, maps, device, stream);
    case 80: return launch<T, 80, kHeads>(p, maps, device, stream);
    case 96: return launch<T, 96, kHeads>(p, maps, device, stream);
    case 128: return launch<T, 128, kHeads>(p, maps, device, stream);
    default: return launch<T, 256, kHeads>(p, maps, device, stream);
  }
}

template <typename T>
void launch_typed(const AttentionParams& p, const KvMaps& maps, const DeviceLimits& device,
                  cudaStream_t stream) {
  if (p.group <= 8)
    launch_heads<T, 1>(p, maps, device, stream);
  else
    launch_heads<T, 2>(p, maps, device, stream);
}

}  // namespace
}  // namespace decode

void launch_decode(const AttentionParams& params, const KvMaps& maps, const DeviceLimits& device,
                   cudaStream_t stream) {
  if (params.half)
    decode::launch_typed<__half>(params, maps, device, stream);
  else
    decode::launch_typed<__nv_bfloat16>(params, maps, device, stream);
}

int64_t decode_workspace(int64_t group, int64_t head_dim, int sms) {
  return 2 * int64_t{sms} *
         (static_cast<int64_t>(sizeof(decode::Split)) + decode::split_floats(group, head_dim) * 4);
}

bool decode_fits(int64_t group, int64_t head_dim, const DeviceLimits& device) {
  const int compiled = compiled_head_dim(head_dim);
  return decode::plan_shared(static_cast<int>(group), static_cast<int>(head_dim), compiled,
                             device.shared_bytes_per_block)
             .stages >= 1;
}

}  // namespace nanoflow::cuda
