// What every CUDA op gets beside its OpArgs, and the list of ops. Plain C++: only .cu files and
// gemm.cc know how an op is computed, only backend.cc knows lanes, events and graphs.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/device.h"
#include "ops/backend.h"

namespace nanoflow::cuda {

/// The run-time side of one launch. Kernels that are captured in a graph see the same `header`
/// pointer at every replay, but other counts behind it.
struct Launch {
  cudaStream_t stream = nullptr;
  const DeviceLimits* device = nullptr;
  int sms = 0;           ///< SMs that the op may use; never 0
  TensorView workspace;  ///< at least workspace_bytes(args, ...); empty when that is 0
  RowRange rows;         ///< LaunchContext::rows
  const StepHeader* header =
      nullptr;  ///< LaunchContext::header, device memory; null: all rows live
};

/// Asynchronous on launch.stream. Throws CudaError when a launch is refused.
void run(const EmbedArgs& args, const Launch& launch);
void run(const RmsNormArgs& args, const Launch& launch);
void run(const AddRmsNormArgs& args, const Launch& launch);
void run(const RopeAppendArgs& args, const Launch& launch);
void run(const PagedAttentionArgs& args, const Launch& launch);
void run(const SiluMulArgs& args, const Launch& launch);
void run(const MoeRouteArgs& args, const Launch& launch);
void run(const MoeSortArgs& args, const Launch& launch);
void run(const GroupedGemmArgs& args, const Launch& launch);
void run(const MoeCombineArgs& args, const Launch& launch);
void run(const GatherRowsArgs& args, const Launch& launch);
void run(const AllReduceArgs& args, const Launch& launch);
void run(const AllGatherArgs& args, const Launch& launch);
void run(const SampleArgs& args, const Launch& launch);

/// Most experts that routing and sorting handle.
inline constexpr int64_t kMaxExperts = 512;

/// Scratch bytes that run() of the same call needs; depends on shapes and `sms` only.
int64_t workspace_bytes(const PagedAttentionArgs& args, int sms, const DeviceLimits& device);
int64_t workspace_bytes(const GroupedGemmArgs& args, int sms, const DeviceLimits& device);
int64_t workspace_bytes(const MoeCombineArgs& args);
int64_t workspace_bytes(const SampleArgs& args, int sms, const DeviceLimits& device);

/// Whether run() covers these shapes and dtypes on this device.
bool supports(const PagedAttentionArgs& args, const DeviceLimits& device);
bool supports(const GroupedGemmArgs& args, const DeviceLimits& device);

}  // namespace nanoflow::cuda
