// Plain C++ border of the attention kernels: what attention.cc hands to the .cu files. It includes
// nothing of ops/, so that nvcc need not read fmt.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/cuda/device.h"

namespace nanoflow::cuda {

/// Tokens per KV page that the kernels are built for.
inline constexpr int kAttentionPage = 64;
/// Query heads per KV head that decode handles in one tensor-core tile.
inline constexpr int kMaxGroup = 16;

/// PagedAttentionArgs as the kernels read them. Row arrays begin at the range's first row.
struct AttentionParams {
  const void* q = nullptr;
  void* out = nullptr;
  int64_t q_stride = 0;  ///< elements between rows
  int64_t out_stride = 0;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t page_stride = 0;  ///< elements, as in KvCacheView
  int64_t slot_stride = 0;
  int64_t head_stride = 0;
  const int32_t* positions = nullptr;
  const int32_t* row_seq = nullptr;
  const int32_t* page_indptr = nullptr;
  const int32_t* page_indices = nullptr;
  const int32_t* live_rows = nullptr;    ///< of the batch, in StepHeader; null: all
  const int32_t* decode_rows = nullptr;  ///< likewise; null: none
  int32_t row_begin = 0;                 ///< of the range in the batch
  int32_t num_rows = 0;                  ///< of the range
  int32_t num_kv_heads = 0;
  int32_t group = 0;  ///< query heads per KV head
  int32_t head_dim = 0;
  int32_t window = 0;    ///< 0: none
  float scale_log2 = 0;  ///< softmax scale * log2(e)
  bool half = false;     ///< float16; else bfloat16
  bool bulk = false;     ///< tensor maps are valid and the device has bulk copies
  int32_t sms = 0;       ///< SMs to use
  void* workspace = nullptr;
};

/// Maps over K and V seen as [page, head, head_dim / block, slot, block]; one box is the tile of
/// one (page, head), or one block of it.
struct KvMaps {
  CUtensorMap k;
  CUtensorMap v;
};

/// Elements of a swizzled row block in shared memory: 128, 64 or 32 bytes, the widest that divides
/// the (padded) head dimension.
constexpr int swizzle_block(int head_dim) {
  return head_dim % 64 == 0 ? 64 : head_dim % 32 == 0 ? 32 : 16;
}

/// The compiled head dimension that computes `head_dim`: 64, 80, 96, 128, 256, or 0 for none.
int compiled_head_dim(int64_t head_dim);

/// Live rows of decodes, [0, header->num_decode_rows). Two kernels: partial results of sequences
/// that were split go through the workspace.
void launch_decode(const AttentionParams& params, const KvMaps& maps, const DeviceLimits& device,
                   cudaStream_t stream);
int64_t decode_workspace(int64_t group, int64_t head_dim, int sms);
/// Whether one pipeline stage of this head dimension fits the device's shared memory.
bool decode_fits(int64_t group, int64_t head_dim, const DeviceLimits& device);

/// Live rows behind the decodes, by warp-level products; any device since sm_80.
void launch_prefill(const AttentionParams& params, const DeviceLimits& device, cudaStream_t stream);
/// The same by warpgroup products and bulk copies, for head_dim 64 and 128 on sm_90. The maps'
/// boxes are single 64-element blocks.
void launch_prefill_sm90(const AttentionParams& params, const KvMaps& maps, cudaStream_t stream);

/// One tile of a prefill launch: up to `tokens per tile` rows of one sequence.
struct PrefillTile {
  int32_t row = 0;        ///< first row, from the range's begin
  int32_t rows = 0;       ///< 1..tokens per tile
  int32_t position = 0;   ///< of the first row
  int32_t page_base = 0;  ///< where its sequence's page ids begin
};
/// Head of the prefill workspace; the sorted tiles follow, then the unsorted ones.
struct PrefillPlan {
  int32_t num_tiles = 0;
  int32_t pad[3] = {};
};
/// Packed rows (tokens times group) of a tile, and so tokens per tile.
inline constexpr int kTileRows = 64;
inline constexpr int kTileRowsSm90 = 128;
/// Fills PrefillPlan: tiles of the prefill rows, most KV tokens first.
void launch_prefill_plan(const AttentionParams& params, int tokens_per_tile, cudaStream_t stream);
int64_t prefill_workspace(int64_t rows);

}  // namespace nanoflow::cuda
