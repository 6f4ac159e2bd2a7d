// What is decided on the host before a kernel is launched; tests/backend_ops holds the kernels to
// the CPU reference.
#include <gtest/gtest.h>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/kernels.h"

namespace nanoflow::cuda {
namespace {

DeviceLimits device_of(int major, int64_t shared_kib) {
  DeviceLimits d;
  d.compute_major = major;
  d.num_sms = 132;
  d.shared_bytes_per_block = shared_kib * 1024;
  d.shared_bytes_per_sm = (shared_kib + 1) * 1024;
  return d;
}

const DeviceLimits kHopper = device_of(9, 227), kAda = device_of(8, 99), kTuring = device_of(7, 64);

/// A call of `rows` rows on memory that nobody touches.
PagedAttentionArgs call(int64_t q_heads, int64_t kv_heads, int64_t dim, DType dtype = DType::kBF16,
                        int64_t rows = 256) {
  alignas(16) static std::byte memory[16];
  static const StepHeader header;
  PagedAttentionArgs a;
  a.q = a.out = TensorView(memory, dtype, {rows, q_heads * dim});
  a.num_q_heads = q_heads;
  a.num_kv_heads = kv_heads;
  a.head_dim = dim;
  a.cache = {memory,
             memory,
             dtype,
             8,
             kAttentionPage,
             kv_heads * kAttentionPage * dim,
             dim,
             kAttentionPage * dim};
  a.step.header = &header;
  a.rows = {0, rows};
  return a;
}

TEST(CudaAttention, SupportsTheHeadDimensionsAndGroupsOfPublishedModels) {
  for (const int64_t dim : {64, 80, 96, 128, 256})
    for (const int64_t group : {1, 2, 3, 4, 7, 8, 12, 16})
      for (const DType dtype : {DType::kBF16, DType::kF16})
        EXPECT_TRUE(supports(call(2 * group, 2, dim, dtype), kHopper)) << dim << " " << group;
  for (const int64_t dim : {8, 16, 24, 40}) EXPECT_TRUE(supports(call(4, 2, dim), kHopper)) << dim;
}

TEST(CudaAttention, LeavesTheRestToThePlainKernel) {
  EXPECT_FALSE(supports(call(17, 1, 128), kHopper)) << "more heads than a tile has columns";
  for (const int64_t dim : {12, 72, 112, 192, 320})
    EXPECT_FALSE(supports(call(4, 2, dim), kHopper));
  EXPECT_FALSE(supports(call(8, 2, 128, DType::kF32), kHopper));
  EXPECT_FALSE(supports(call(8, 2, 128), kTuring)) << "no bf16 products";
  PagedAttentionArgs other_page = call(8, 2, 128);
  other_page.cache.page_size = 16;
  EXPECT_FALSE(supports(other_page, kHopper));
  PagedAttentionArgs odd_slots = call(8, 2, 128);
  odd_slots.cache.slot_stride = 129;
  EXPECT_FALSE(supports(odd_slots, kHopper)) << "copies are 16 bytes wide";
  PagedAttentionArgs other_dtype = call(8, 2, 128);
  other_dtype.cache.dtype = DType::kF16;
  EXPECT_FALSE(supports(other_dtype, kHopper));
}

TEST(CudaAttention, NeedsOneStageOfSharedMemory) {
  EXPECT_TRUE(supports(call(32, 8, 128), kAda));
  EXPECT_FALSE(supports(call(16, 1, 256), kAda)) << "two pages of head_dim 256 fill it";
}

TEST(CudaAttention, WorkspaceDependsOnSmsForDecodeAndOnRowsForPrefill) {
  PagedAttentionArgs a = call(32, 8, 128);
  a.phase = Phase::kDecode;
  const int64_t all = workspace_bytes(a, 132, kHopper);
  EXPECT_GE(all, 132 * 2 * 4 * (128 + 2) * 4) << "two parts per block";
  EXPECT_LT(all, 2 << 20);
  EXPECT_LT(workspace_bytes(a, 40, kHopper), all);
  EXPECT_EQ(workspace_bytes(call(32, 8, 128, DType::kBF16, 16), 132, kHopper), all)
      << "few rows: the decode part is the larger one";
  a.phase = Phase::kPrefill;
  EXPECT_EQ(workspace_bytes(a, 132, kHopper), workspace_bytes(a, 16, kHopper));
  EXPECT_GE(workspace_bytes(a, 132, kHopper), 2 * 256 * static_cast<int64_t>(sizeof(PrefillTile)))
      << "every row may be a sequence of its own";
}

}  // namespace
}  // namespace nanoflow::cuda
