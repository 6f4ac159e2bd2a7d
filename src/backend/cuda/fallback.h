// Matrix products and attention for every shape, dtype and GPU: a few plain loops, no tensor cores.
// The backend takes them where the tuned kernels do not apply (float32, odd shapes, old GPUs).
#pragma once

#include "backend/cuda/kernels.h"

namespace nanoflow::cuda::fallback {

/// Asynchronous on launch.stream; needs no workspace. Throws CudaError when a launch is refused.
void run(const GemmArgs& args, const Launch& launch);
void run(const GroupedGemmArgs& args, const Launch& launch);
void run(const PagedAttentionArgs& args, const Launch& launch);

}  // namespace nanoflow::cuda::fallback
