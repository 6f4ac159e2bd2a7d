// Dependent launches (programmatic dependent launch, sm_90): a kernel starts while the one before
// it still runs, does what needs none of its results, and waits for its end before it touches
// anything that earlier kernels write. Every kernel launched so waits, so the end of one means the
// end of all before it.
#pragma once

#include <cuda_runtime.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/kernels.h"

namespace nanoflow::cuda {

/// Rows up to which a step is bound by its kernels' beginnings and ends. Larger steps gain nothing,
/// and their kernels' blocks would hold room that a neighbouring lane could use.
inline constexpr int64_t kDependentRows = 16;

/// Returns when all kernels before this one have ended and what they wrote can be read.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel start once every block of this one has come here.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Launches `kernel`, which calls wait_for_previous(), over `rows` rows of the batch.
template <typename... Params>
void launch_dependent(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                      int64_t rows, const Launch& launch, const char* what,
                      const Params&... params) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launch.stream;
  config.attrs = &overlap;
  config.numAttrs = launch.device->compute_major >= 9 && rows <= kDependentRows ? 1 : 0;
  cuda_check(cudaLaunchKernelEx(&config, kernel, params...), what);
}

}  // namespace nanoflow::cuda
