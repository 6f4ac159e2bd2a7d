// Tensor maps of KV pages for the bulk copy engine.
#pragma once

#include "backend/cuda/attention_kernels.h"
#include "ops/op_args.h"

namespace nanoflow::cuda {

/// Maps over `cache` for tiles of 64 slots and `head_dim` (16-bit) elements, in the swizzled layout
/// of attention_tiles.cuh. `whole_head`: one box is a head's whole tile; else a single column
/// block. Throws CudaError when the driver refuses, which needs strides that kv_tileable() denies.
KvMaps make_kv_maps(const KvCacheView& cache, int64_t num_kv_heads, int64_t head_dim,
                    bool whole_head);

/// Whether pages, heads and slots begin at multiples of 16 bytes, as all copies of tiles need.
bool kv_tileable(const KvCacheView& cache);

}  // namespace nanoflow::cuda
