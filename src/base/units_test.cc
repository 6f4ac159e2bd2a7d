#include "base/units.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(Units, BytesInTheLargestUnitThatFits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1.5 * (1 << 30)), "1.5 GiB");
  EXPECT_EQ(format_bytes(0x1.0p60), "1048576.0 TiB");
}

TEST(Units, Gib) {
  EXPECT_EQ(gib(int64_t{3} << 29), 1.5);
}

}  // namespace
}  // namespace nanoflow
