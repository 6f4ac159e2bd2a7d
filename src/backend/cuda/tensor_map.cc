#include "backend/cuda/tensor_map.h"

#include <algorithm>

#include <fmt/format.h>

#include "backend/cuda/cuda.h"

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

CUtensorMap make_map(Encode encode, void* data, const KvCacheView& cache, int64_t num_kv_heads,
                     int64_t head_dim, bool whole_head) {
  const int compiled = compiled_head_dim(head_dim);
  const auto block = static_cast<cuuint64_t>(swizzle_block(compiled));
  const auto blocks = static_cast<cuuint64_t>(compiled) / block;
  const cuuint64_t sizes[5] = {
      std::min(block, static_cast<cuuint64_t>(head_dim)), static_cast<cuuint64_t>(kAttentionPage),
      blocks, static_cast<cuuint64_t>(num_kv_heads), static_cast<cuuint64_t>(cache.num_pages)};
  const auto bytes = [](int64_t elements) { return static_cast<cuuint64_t>(elements * 2); };
  const cuuint64_t strides[4] = {bytes(cache.slot_stride), block * 2, bytes(cache.head_stride),
                                 bytes(cache.page_stride)};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(block), kAttentionPage,
                             whole_head ? static_cast<cuuint32_t>(blocks) : 1u, 1, 1};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const CUtensorMapSwizzle swizzle = block == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                     : block == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                   : CU_TENSOR_MAP_SWIZZLE_32B;
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, data, sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw CudaError(fmt::format("CUDA: a tensor map over {} KV pages failed: error {}",
                                cache.num_pages, static_cast<int>(status)));
  return map;
}

}  // namespace

KvMaps make_kv_maps(const KvCacheView& cache, int64_t num_kv_heads, int64_t head_dim,
                    bool whole_head) {
  const Encode encode = encode_function();
  return {make_map(encode, cache.k, cache, num_kv_heads, head_dim, whole_head),
          make_map(encode, cache.v, cache, num_kv_heads, head_dim, whole_head)};
}

bool kv_tileable(const KvCacheView& cache) {
  return cache.page_stride % 8 == 0 && cache.slot_stride % 8 == 0 && cache.head_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(cache.k) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(cache.v) % 16 == 0;
}

}  // namespace nanoflow::cuda
