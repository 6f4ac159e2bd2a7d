#include "base/random.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(Random, SplitMix64IsTheReferenceSequence) {
  // The first outputs of the authors' splitmix64.c from state 1234567.
  SplitMix64 random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, BetweenReachesBothEndsAndNoFurther) {
  SplitMix64 random(3);
  bool low = false, high = false;
  for (int i = 0; i < 1000; ++i) {
    const int64_t value = random.between(-2, 3);
    ASSERT_TRUE(-2 <= value && value <= 3) << value;
    low |= value == -2;
    high |= value == 3;
  }
  EXPECT_TRUE(low && high);
  EXPECT_EQ(random.between(INT64_MAX, INT64_MAX), INT64_MAX);
  EXPECT_GE(random.between(INT64_MAX - 5, INT64_MAX), INT64_MAX - 5);
}

TEST(RandomDeathTest, ARangeThatADoubleCannotHoldAborts) {
  SplitMix64 random(3);
  EXPECT_DEATH((void)random.between(INT64_MIN, INT64_MAX), "9223372036854775807");
  EXPECT_DEATH((void)random.between(1, 0), "1, 0");
}

}  // namespace
}  // namespace nanoflow
