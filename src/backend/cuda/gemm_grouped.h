// Products with the weights of several experts, for Hopper: what gemm_grouped.cc decides and
// encodes, and gemm_grouped.cu computes.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "backend/cuda/kernels.h"

namespace nanoflow::cuda {

struct GroupedMaps {
  CUtensorMap weight;  ///< (k, n, experts), boxes of 128 rows
  CUtensorMap tokens;  ///< (k, rows of a)
};

/// out[i] = a[i] @ w[expert(i)]^T.
struct GroupedParams {
  void* out = nullptr;
  int64_t out_stride = 0;
  int n = 0;                         ///< columns of out: a multiple of 8
  int k = 0;                         ///< a multiple of 8
  int experts = 1;                   ///< at most kMaxExperts
  const int32_t* offsets = nullptr;  ///< [experts + 1]
  bool half = false;                 ///< fp16, else bf16
  int sms = 0;
};

/// Rows of a tile of tokens, by how many rows an expert has on average.
inline constexpr int kSmallTokenTile = 64, kMiddleTokenTile = 192, kLargeTokenTile = 256;
/// Rows of one bulk copy of tokens, and the step in which a tile's width follows its tokens.
inline constexpr int kGroupedBoxRows = 16;

/// Asynchronous; one persistent kernel of at most params.sms blocks. Compute capability 9 only.
void launch_grouped_sm90(const GroupedParams& params, const GroupedMaps& maps, int token_tile,
                         cudaStream_t stream);
/// to[i] = from[order[i] / per_token] for i < offsets[experts]; rows of 16-byte multiples.
void launch_gather_tokens(void* to, const TensorView& from, const GroupedGemmArgs& args,
                          const Launch& launch);

}  // namespace nanoflow::cuda
