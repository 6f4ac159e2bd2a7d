#include "ops/op_args.h"

#include <set>

#include <gtest/gtest.h>

#include "ops/sampling_noise.h"

namespace nanoflow {
namespace {

TensorView act(int64_t rows, int64_t cols, DType dtype = DType::kBF16) {
  static float memory[1];  // shapes only: nothing is read
  return TensorView(memory, dtype, {rows, cols});
}
TensorView vec(int64_t n, DType dtype = DType::kBF16) {
  static float memory[1];
  return TensorView(memory, dtype, {n});
}
PackedWeight weight(int64_t n, int64_t k, int64_t experts = 1) {
  return {.data = act(n * experts, k), .n = n, .k = k, .experts = experts};
}
GemmArgs gemm(int64_t m, int64_t n, int64_t k) {
  return {.out = act(m, n), .a = act(m, k), .weight = weight(n, k)};
}

TEST(OpKindName, IsUniquePerOp) {
  std::set<std::string_view> names;
  [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    (names.insert(op_kind_name(std::variant_alternative_t<kIndex, OpArgs>{})), ...);
  }
  (std::make_index_sequence<std::variant_size_v<OpArgs>>{});
  EXPECT_EQ(names.size(), std::variant_size_v<OpArgs>);
  EXPECT_EQ(op_kind_name(gemm(1, 1, 1)), "gemm");
}

TEST(OpCostTest, GemmCountsTwoFlopsPerMultiplyAddAndEachByteOnce) {
  const OpCost cost = op_cost(gemm(3, 5, 7), 0, 1);
  EXPECT_EQ(cost.flops, 2 * 3 * 5 * 7);
  EXPECT_EQ(cost.memory_bytes, 2 * (3 * 7 + 5 * 7 + 3 * 5));
  EXPECT_EQ(cost.network_bytes, 0);
}

TEST(OpCostTest, AttentionReadsSharedPrefillKeysOnce) {
  PagedAttentionArgs a{.out = act(4, 8 * 64),
                       .q = act(4, 8 * 64),
                       .num_q_heads = 8,
                       .num_kv_heads = 2,
                       .head_dim = 64};
  const double q_and_out = 2.0 * 4 * 8 * 64 * 2, per_token = 2 * 2 * 64 * 2;
  a.phase = Phase::kDecode;  // four sequences of 100 tokens
  EXPECT_EQ(op_cost(a, 400, 1).flops, 4.0 * 8 * 64 * 400);
  EXPECT_EQ(op_cost(a, 400, 1).memory_bytes, 400 * per_token + q_and_out);
  a.phase = Phase::kPrefill;  // positions 96..99 of one: 97 + 98 + 99 + 100
  EXPECT_EQ(op_cost(a, 394, 1).memory_bytes, 100 * per_token + q_and_out);
}

TEST(OpCostTest, CollectivesCountWhatARankSends) {
  EXPECT_EQ(op_cost(AllReduceArgs{act(2, 8)}, 0, 4).network_bytes, 2.0 * 3 / 4 * 32);
  EXPECT_EQ(op_cost(AllReduceArgs{act(2, 8)}, 0, 1).network_bytes, 0);
  EXPECT_EQ(op_cost(AllGatherArgs{.out = act(2, 32), .x = act(2, 8)}, 0, 4).network_bytes, 3 * 32);
}

TEST(CheckShapes, AcceptsStridedViewsAndEmptyBatches) {
  GemmArgs a = gemm(3, 5, 7);
  a.a = act(3, 20).slice_cols(4, 11);
  check_shapes(a);
  check_shapes(gemm(0, 5, 7));
  check_shapes(SiluMulArgs{.out = act(3, 4), .gate_up = act(3, 8)});
}

TEST(CheckShapesDeathTest, NamesTheOperandThatDoesNotFit) {
  GemmArgs a = gemm(3, 5, 7);
  a.out = act(4, 5);
  EXPECT_DEATH(check_shapes(a), "gemm: out is bfloat16.4, 5., not .3, 5.");
  a = gemm(3, 5, 7);
  a.weight = weight(5, 8);
  EXPECT_DEATH(check_shapes(a), "gemm: weight");
  EXPECT_DEATH(check_shapes(RmsNormArgs{.out = act(2, 4), .x = act(2, 4), .weight = vec(5)}),
               "rms_norm: weight");
  EXPECT_DEATH(check_shapes(SiluMulArgs{.out = act(3, 4), .gate_up = act(3, 7)}),
               "silu_mul: gate_up");
  EXPECT_DEATH(check_shapes(GatherRowsArgs{.out = act(2, 4), .x = act(9, 4), .index = vec(2)}),
               "gather_rows: index");
  EXPECT_DEATH(check_shapes(AddRmsNormArgs{.out = act(2, 4),
                                           .residual = act(2, 4, DType::kF32),
                                           .delta = act(2, 4),
                                           .weight = vec(4)}),
               "add_rms_norm: ");
}

TEST(SamplingNoise, IsPinned) {
  // Other backends and later versions must draw the same numbers.
  EXPECT_EQ(mix_bits(1), 0x5692161d100b05e5ull);
  const uint64_t key = noise_key(42, 7);
  EXPECT_NE(noise_bits(key, 0), noise_bits(key, 1));
  EXPECT_NE(noise_key(42, 7), noise_key(7, 42));
  EXPECT_GT(noise_uniform(0), 0.0f);
  EXPECT_LT(noise_uniform(0xffffffffu), 1.0f);
  static_assert(noise_uniform(0x80000000u) == 0.5f);
}

}  // namespace
}  // namespace nanoflow
