// Tensor maps for the bulk copy engine: of any 16-bit matrix, and of KV pages.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

#include "backend/cuda/attention_kernels.h"
#include "ops/op_args.h"

namespace nanoflow::cuda {

/// A map of 16-bit elements, innermost dimension first and contiguous; `stride_bytes` (multiples of
/// 16) are of the dimensions after it. Boxes are swizzled by their innermost size: 64, 32 or 16
/// elements. Outside of `sizes` zeros are read. Throws CudaError when the driver refuses.
CUtensorMap make_tensor_map(const void* data, const std::vector<int64_t>& sizes,
                            const std::vector<int64_t>& stride_bytes,
                            const std::vector<int64_t>& box);

/// Maps over `cache` for tiles of 64 slots and `head_dim` (16-bit) elements, in the swizzled layout
/// of attention_tiles.cuh. `whole_head`: one box is a head's whole tile; else a single column
/// block. Throws CudaError when the driver refuses, which needs strides that kv_tileable() denies.
KvMaps make_kv_maps(const KvCacheView& cache, int64_t num_kv_heads, int64_t head_dim,
                    bool whole_head);

/// Whether pages, heads and slots begin at multiples of 16 bytes, as all copies of tiles need.
bool kv_tileable(const KvCacheView& cache);

}  // namespace nanoflow::cuda
