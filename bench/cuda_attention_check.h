// Shapes of attention calls, and the check of the CUDA kernels that computes them.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/device.h"
#include "tensor/dtype.h"

namespace nanoflow::bench {

/// Tokens per KV page.
inline constexpr int64_t kPage = 64;

/// Tokens of a sequence after the step, and how many of them are the step's rows.
struct Seq {
  int64_t length = 0, rows = 0;
};

/// A step's sequences; its first `decodes` rows are decodes.
struct Step {
  std::vector<Seq> seqs;
  int64_t decodes = 0;
};

struct Shape {
  int64_t q_heads = 32, kv_heads = 8, dim = 128;
  DType dtype = DType::kBF16;
  int64_t window = 0;
};

/// Compares the kernels of `device`, and those for older GPUs, with a float64 reference within
/// derived bounds; prints what is wrong and a summary. Returns the number of wrong launches.
int check_attention(const cuda::DeviceLimits& device);

}  // namespace nanoflow::bench
