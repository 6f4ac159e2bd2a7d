#include "backend/cpu/vector_math.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace nanoflow::cpu {
namespace {

/// Largest error of f over x in float ulps of the true value.
template <typename F, typename G>
double worst_ulps(const F& f, const G& truth, float first, float last, int steps) {
  double worst = 0;
  for (int i = 0; i < steps; ++i) {
    const float x = first + (last - first) * static_cast<float>(i) / static_cast<float>(steps);
    const double want = truth(static_cast<double>(x));
    const auto rounded = static_cast<float>(want);
    const double ulp = static_cast<double>(
        std::nextafter(std::abs(rounded), std::numeric_limits<float>::infinity()) -
        std::abs(rounded));
    worst = std::max(worst, std::abs(static_cast<double>(f(x)) - want) / ulp);
  }
  return worst;
}

TEST(VectorMath, ExpIsWithinTwoUlp) {
  const auto f = [](float x) { return exp(splat(x))[3]; };
  const auto truth = [](double x) { return std::exp(x); };
  EXPECT_LT(worst_ulps(f, truth, -87.0f, 88.0f, 200000), 2.0);
  EXPECT_LT(worst_ulps(f, truth, -1.0f, 1.0f, 200000), 2.0);
  EXPECT_EQ(exp(splat(0.0f))[0], 1.0f);
  EXPECT_EQ(exp(splat(-INFINITY))[0], 0.0f);
  EXPECT_EQ(exp(splat(-1e30f))[0], 0.0f);
  EXPECT_EQ(exp(splat(std::nanf("")))[0], 0.0f);
}

TEST(VectorMath, LogIsWithinTwoUlp) {
  const auto f = [](float x) { return log(splat(x))[3]; };
  const auto truth = [](double x) { return std::log(x); };
  EXPECT_LT(worst_ulps(f, truth, 1e-6f, 0.7f, 200000), 2.0);
  EXPECT_LT(worst_ulps(f, truth, 0.7f, 1.5f, 200000), 2.0);
  EXPECT_LT(worst_ulps(f, truth, 1.5f, 1e6f, 200000), 2.0);
}

TEST(VectorMath, NegativeLog1pKeepsItsPrecisionNearZeroAndOne) {
  const auto f = [](float x) { return negative_log1p(splat(x))[3]; };
  const auto truth = [](double x) { return -std::log1p(-x); };
  EXPECT_LT(worst_ulps(f, truth, 1.2e-10f, 1e-8f, 100000), 3.0);
  EXPECT_LT(worst_ulps(f, truth, 1e-8f, 1e-3f, 200000), 3.0);
  EXPECT_LT(worst_ulps(f, truth, 1e-3f, 0.99999994f, 200000), 3.0);
}

TEST(Simd, RoundsStoresAsTheScalarTypesDo) {
  for (uint32_t high = 0; high < 0x10000; high += 7)
    for (const uint32_t low : {0u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = std::bit_cast<float>(high << 16 | low);
      BFloat16 out[16];
      store(out, splat(x));
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(static_cast<float>(out[5])));
      } else if (std::isfinite(x)) {  // splat(infinity) is NaN
        ASSERT_EQ(out[5].bits, BFloat16(x).bits) << x;
      }
    }
}

TEST(Simd, LoadsEveryType) {
  float f[16];
  BFloat16 b[16];
  Float16 h[16];
  for (int i = 0; i < 16; ++i) {
    f[i] = static_cast<float>(i) - 3.5f;
    b[i] = BFloat16(f[i]);
    h[i] = Float16(f[i]);
  }
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(load(f)[i], f[i]);
    EXPECT_EQ(load(b)[i], f[i]);
    EXPECT_EQ(load(h)[i], f[i]);
    EXPECT_EQ(load_part(b, 9)[i], i < 9 ? f[i] : 0.0f);
  }
  EXPECT_EQ(sum(load(f)), 120.0f - 16 * 3.5f);
  EXPECT_EQ(max(load(f)), 11.5f);
}

}  // namespace
}  // namespace nanoflow::cpu
