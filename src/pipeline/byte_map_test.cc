#include "pipeline/byte_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace nanoflow {
namespace {

TEST(ByteMap, HoldsWhatWasWrittenLast) {
  ByteMap map;
  EXPECT_FALSE(map.holds(0, 1, 7));
  EXPECT_TRUE(map.holds(3, 3, 7)) << "no bytes need nothing";
  map.write(10, 30, 7);
  EXPECT_TRUE(map.holds(10, 30, 7));
  EXPECT_FALSE(map.holds(9, 30, 7));
  EXPECT_FALSE(map.holds(10, 31, 7));
  map.write(15, 20, 8);
  EXPECT_TRUE(map.holds(10, 15, 7));
  EXPECT_TRUE(map.holds(15, 20, 8));
  EXPECT_TRUE(map.holds(20, 30, 7));
  EXPECT_FALSE(map.holds(10, 30, 7));
  map.write(12, 25, -1);
  EXPECT_FALSE(map.holds(15, 20, 8));
  EXPECT_TRUE(map.holds(25, 30, 7));
}

TEST(ByteMap, AgreesWithAnArrayOfBytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    ByteMap map;
    std::vector<SymbolId> bytes(40, -1);
    for (int write = 0; write < 30; ++write) {
      const int64_t begin = random() % 40, end = begin + random() % (41 - begin);
      const SymbolId symbol = static_cast<SymbolId>(random() % 4) - 1;
      map.write(begin, end, symbol);
      std::fill(bytes.begin() + begin, bytes.begin() + end, symbol);
      const int64_t from = random() % 40, to = from + random() % (41 - from);
      const SymbolId asked = static_cast<SymbolId>(random() % 3);
      const bool want = std::all_of(bytes.begin() + from, bytes.begin() + to,
                                    [&](SymbolId s) { return s == asked; });
      ASSERT_EQ(map.holds(from, to, asked), want) << "[" << from << ", " << to << ")";
    }
  }
}

}  // namespace
}  // namespace nanoflow
