#include "engine/step_timing.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(KvTokensRead, CountsThePhasesRowsOfTheRangeUpToTheWindow) {
  // Three decodes at positions 9, 4, 0; a chunk of two rows from position 5 on; no padding.
  const std::vector<int32_t> positions = {9, 4, 0, 5, 6};
  const auto tokens = [&](Phase phase, RowRange rows, int64_t window = 0) {
    return kv_tokens_read(positions, 3,
                          PagedAttentionArgs{.rows = rows, .phase = phase, .window = window});
  };
  EXPECT_EQ(tokens(Phase::kDecode, {0, 8}), 10 + 5 + 1);
  EXPECT_EQ(tokens(Phase::kPrefill, {0, 8}), 6 + 7);
  EXPECT_EQ(tokens(Phase::kAny, {0, 8}), 29);
  EXPECT_EQ(tokens(Phase::kDecode, {1, 4}), 5 + 1);
  EXPECT_EQ(tokens(Phase::kPrefill, {0, 4}), 6);
  EXPECT_EQ(tokens(Phase::kDecode, {3, 8}), 0);
  EXPECT_EQ(tokens(Phase::kPrefill, {6, 8}), 0) << "padding";
  EXPECT_EQ(tokens(Phase::kAny, {0, 8}, 5), 5 + 5 + 1 + 5 + 5);
}

}  // namespace
}  // namespace nanoflow
