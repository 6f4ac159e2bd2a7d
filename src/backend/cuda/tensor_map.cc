#include "backend/cuda/tensor_map.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "backend/cuda/cuda.h"
#include "base/check.h"

namespace nanoflow::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, looked up so that the program starts on machines without a driver.
Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &result),
             "looking up cuTensorMapEncodeTiled");
  if (result != cudaDriverEntryPointSuccess || function == nullptr)
    throw CudaError("CUDA: the driver has no tensor maps: install a driver for CUDA 12 or later");
  return reinterpret_cast<Encode>(function);
}

CUtensorMap make_kv_map(void* data, const KvCacheView& cache, int64_t num_kv_heads,
                        int64_t head_dim, bool whole_head) {
  const int compiled = compiled_head_dim(head_dim);
  const int64_t block = swizzle_block(compiled), blocks = compiled / block;
  return make_tensor_map(
      data, {std::min(block, head_dim), kAttentionPage, blocks, num_kv_heads, cache.num_pages},
      {cache.slot_stride * 2, block * 2, cache.head_stride * 2, cache.page_stride * 2},
      {block, kAttentionPage, whole_head ? blocks : 1, 1, 1});
}

}  // namespace

CUtensorMap make_tensor_map(const void* data, const std::vector<int64_t>& sizes,
                            const std::vector<int64_t>& stride_bytes,
                            const std::vector<int64_t>& box) {
  const size_t rank = sizes.size();
  NANO_CHECK(rank >= 2 && rank <= 5 && stride_bytes.size() == rank - 1 && box.size() == rank,
             "a tensor map of rank {}", rank);
  cuuint64_t size[5] = {}, stride[4] = {};
  cuuint32_t boxes[5] = {}, steps[5] = {1, 1, 1, 1, 1};
  for (size_t i = 0; i < rank; ++i) {
    size[i] = static_cast<cuuint64_t>(sizes[i]);
    boxes[i] = static_cast<cuuint32_t>(box[i]);
    if (i + 1 < rank) stride[i] = static_cast<cuuint64_t>(stride_bytes[i]);
  }
  const CUtensorMapSwizzle swizzle = box[0] == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : box[0] == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                    : CU_TENSOR_MAP_SWIZZLE_32B;
  CUtensorMap map;
  const CUresult status = encode_function()(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(rank),
      const_cast<void*>(data), size, stride, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw CudaError(fmt::format("CUDA: a tensor map of shape [{}] failed: error {}",
                                fmt::join(sizes, ", "), static_cast<int>(status)));
  return map;
}

KvMaps make_kv_maps(const KvCacheView& cache, int64_t num_kv_heads, int64_t head_dim,
                    bool whole_head) {
  return {make_kv_map(cache.k, cache, num_kv_heads, head_dim, whole_head),
          make_kv_map(cache.v, cache, num_kv_heads, head_dim, whole_head)};
}

bool kv_tileable(const KvCacheView& cache) {
  return cache.page_stride % 8 == 0 && cache.slot_stride % 8 == 0 && cache.head_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(cache.k) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(cache.v) % 16 == 0;
}

}  // namespace nanoflow::cuda
