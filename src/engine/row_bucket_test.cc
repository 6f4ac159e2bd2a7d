#include "engine/row_bucket.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(RowBucket, HoldsItsRowsWithLittlePadding) {
  int64_t last = 0;
  int buckets = 0;
  for (int64_t rows = 1; rows <= 8192; ++rows) {
    const int64_t bucket = row_bucket(rows);
    ASSERT_GE(bucket, rows);
    ASSERT_EQ(bucket % 8, 0);
    ASSERT_LT(bucket - rows, std::max<int64_t>(8, rows / 8 + 1)) << rows;
    ASSERT_EQ(row_bucket(bucket), bucket);
    ASSERT_GE(bucket, last);
    buckets += bucket != last ? 1 : 0;
    last = bucket;
  }
  EXPECT_EQ(buckets, 8 + 7 * 8);
  EXPECT_EQ(row_buckets(8192).size(), static_cast<size_t>(buckets));
  EXPECT_EQ(row_buckets(20), (std::vector<int64_t>{8, 16, 24}));
  EXPECT_EQ(row_bucket(64), 64);
  EXPECT_EQ(row_bucket(65), 72);
  EXPECT_EQ(row_bucket(129), 144);
}

}  // namespace
}  // namespace nanoflow
