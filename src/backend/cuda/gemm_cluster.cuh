// What blocks of a cluster do together, and bulk copies that reach several of them: Hopper only.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nanoflow::cuda::cluster {

/// Barriers in shared memory that were initialized so far can be reached by the whole cluster, once
/// both have met in sync().
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// All threads of the cluster's blocks.
__device__ __forceinline__ void sync() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

/// One arrival at the barrier of block `rank` that lies where `bar` does in this block. It orders
/// no memory accesses across the cluster: a release of that scope waits about a microsecond, and
/// what products have read needs none.
__device__ __forceinline__ void arrive_at(uint32_t bar, uint32_t rank) {
  asm volatile(
      "{ .reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(bar),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void bulk_box_2d(uint32_t dst, const CUtensorMap* map, uint32_t bar,
                                            int x0, int x1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x0), "r"(x1)
      : "memory");
}

/// The same box for every block whose bit is set in `blocks`, at `dst` and counted by `bar` of
/// each.
__device__ __forceinline__ void bulk_box_2d_to(uint16_t blocks, uint32_t dst,
                                               const CUtensorMap* map, uint32_t bar, int x0,
                                               int x1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(x0), "r"(x1), "h"(blocks)
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

}  // namespace nanoflow::cuda::cluster
