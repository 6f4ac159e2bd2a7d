// The comparator must see what is planted.
#include <cmath>

#include <gtest/gtest.h>

#include "compare.h"

namespace nanoflow::testing_ops {
namespace {

class Comparator : public testing::TestWithParam<DType> {
 protected:
  Comparator() : before(GetParam(), 4, 5, 3), want(before) {
    for (int64_t r = 0; r < 4; ++r)
      for (int64_t c = 0; c < 5; ++c) want.set(r, c, static_cast<double>(r - c));
    got = want;
  }
  [[nodiscard]] size_t failures(double bound) const {
    return compare(got, want, before, 0, 4, [&](int64_t, int64_t, double) { return bound; }).size();
  }
  HostTensor before, want, got;
};

TEST_P(Comparator, AcceptsWhatIsWithinTheBound) {
  got.set(2, 4, want.get(2, 4) + 1);
  EXPECT_EQ(failures(1), 0u);
}

TEST_P(Comparator, FindsPlantedErrorsOfBothSigns) {
  for (const double error : {1.0, -1.0}) {
    got = want;
    got.set(3, 0, want.get(3, 0) + error);
    EXPECT_EQ(failures(0.99), 1u) << error;
  }
}

TEST_P(Comparator, FindsNanAndInfinity) {
  if (GetParam() == DType::kI32) return;
  for (const double bad : std::initializer_list<double>{std::nan(""), INFINITY, -INFINITY}) {
    got = want;
    got.set(1, 1, bad);
    EXPECT_EQ(failures(1e30), 1u) << bad;
  }
}

TEST_P(Comparator, FindsAnElementThatWasNotWritten) {
  got.bytes = before.bytes;
  EXPECT_GE(failures(100), 1u);
}

TEST_P(Comparator, FindsWritesToGapsGuardsAndOtherRows) {
  for (const auto& [row, col] : {std::pair{-1, 0}, {0, 5}, {2, 7}, {4, 0}}) {
    got = want;
    got.set(row, col, 1);
    EXPECT_EQ(failures(1e30), 1u) << row << " " << col;
  }
  got = want;
  EXPECT_GE(compare(got, want, before, 1, 4, [](int64_t, int64_t, double) { return 1e30; }).size(),
            1u);
}

INSTANTIATE_TEST_SUITE_P(DTypes, Comparator,
                         testing::Values(DType::kF32, DType::kBF16, DType::kF16, DType::kI32));

}  // namespace
}  // namespace nanoflow::testing_ops
