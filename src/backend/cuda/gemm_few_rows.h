// Products of few rows, which only read their weights.
#pragma once

#include "backend/cuda/kernels.h"

namespace nanoflow::cuda {

/// Most rows that the kernel multiplies.
inline constexpr int64_t kFewRows = 16;

/// Whether run_few_rows() covers the product; what Gemm::supports() does of at most kFewRows rows.
bool supports_few_rows(const GemmArgs& args, const DeviceLimits& device);

/// Asynchronous on launch.stream; needs no workspace. A row's bits do not depend on the others.
void run_few_rows(const GemmArgs& args, const Launch& launch);

}  // namespace nanoflow::cuda
