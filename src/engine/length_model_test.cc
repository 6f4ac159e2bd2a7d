#include "engine/length_model.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "engine/growth.h"

namespace nanoflow {
namespace {

void observe(LengthModel& model, int64_t length) {
  for (int64_t n = 1; n < length; ++n) model.on_token(n);
  model.on_finish(length);
}

TEST(LengthModel, QuantilesOfAConstantLength) {
  LengthModel model;
  for (int i = 0; i < 3000; ++i) observe(model, 100);
  for (const double u : {0.1, 0.5, 0.9}) {
    EXPECT_GE(model.quantile(0, u), 95) << u;
    EXPECT_LE(model.quantile(0, u), 104) << u;  // the bucket's end
  }
  EXPECT_GT(model.quantile(500, 0.5), 500);
}

TEST(LengthModel, IsConditionalOnWhatWasGenerated) {
  LengthModel model;
  std::mt19937 random(1);
  for (int i = 0; i < 4000; ++i) observe(model, i % 2 == 0 ? 20 : 1000);
  EXPECT_LE(model.quantile(0, 0.3), 22);
  EXPECT_GE(model.quantile(0, 0.7), 900);
  EXPECT_GE(model.quantile(30, 0.1), 900);
}

// Kaplan-Meier: while only short outputs have had time to end, the long ones that still run must
// keep the forecast up.
TEST(LengthModel, RunningOutputsCountToo) {
  LengthModel model;
  for (int i = 0; i < 1000; ++i) {
    if (i % 10 == 0) {
      observe(model, 50);
    } else {
      for (int64_t n = 1; n <= 400; ++n) model.on_token(n);
    }
  }
  EXPECT_GT(model.quantile(0, 0.5), 400);
}

TEST(LengthModel, GeometricLengthsHaveTheRightMedian) {
  LengthModel model;
  std::mt19937 random(2);
  std::geometric_distribution<int64_t> draw(1.0 / 200);
  for (int i = 0; i < 4000; ++i) observe(model, draw(random) + 1);
  const double median = 200 * std::log(2.0);
  EXPECT_NEAR(static_cast<double>(model.quantile(0, 0.5)), median, 0.15 * median);
  EXPECT_NEAR(static_cast<double>(model.quantile(300, 0.5)), 300 + median, 0.25 * (300 + median));
}

TEST(LengthModel, AlwaysBeyondWhatExistsAndMonotonous) {
  LengthModel model;
  for (const int64_t g : {0, 1, 15, 16, 17, 31, 32, 1000, 1 << 20, 1 << 25}) {
    int64_t last = 0;
    for (double u = 0.02; u < 1; u += 0.08) {
      const int64_t q = model.quantile(g, u);
      EXPECT_GT(q, g);
      EXPECT_GE(q, last);
      last = q;
    }
  }
}

TEST(GrowthForecast, PeakIsRightBeforeSomebodyEnds) {
  // Alone: 10 + 5. Together: the small one ends after 2 steps at (10 + 2) + (8 + 2); then 10 + 5.
  GrowthForecast growth({{10, 5}});
  EXPECT_EQ(growth.peak_with({8, 2}), 22);
  EXPECT_EQ(growth.peak_with({8, 20}), 28);  // the first ends after 5: 15 + 13, later 8 + 20
  growth.add({8, 2});
  EXPECT_EQ(growth.peak_with({0, 0}), 22);
}

// Against a simulation step by step.
TEST(GrowthForecast, EqualsASimulation) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<GrowthForecast::Entry> entries(1 + random() % 12);
    for (auto& e : entries)
      e = {static_cast<int64_t>(random() % 50), static_cast<int64_t>(random() % 30)};
    int64_t peak = 0;
    for (int64_t t = 0; t <= 30; ++t) {
      int64_t sum = 0;
      for (const auto& e : entries) sum += e.remaining >= t ? e.resident + t : 0;
      peak = std::max(peak, sum);
    }
    const GrowthForecast::Entry last = entries.back();
    entries.pop_back();
    EXPECT_EQ(GrowthForecast(entries).peak_with(last), peak);
  }
}

TEST(GrowthReserve, FollowsPreemptionsWithinBounds) {
  GrowthReserve reserve;
  const double start = reserve.share();
  for (int i = 0; i < 10; ++i) reserve.on_preemption();
  const double raised = reserve.share();
  EXPECT_GT(raised, start);
  for (int i = 0; i < 100; ++i) reserve.on_finish();
  EXPECT_LT(reserve.share(), raised);
  for (int i = 0; i < 100000; ++i) reserve.on_finish();
  EXPECT_GT(reserve.share(), 0);
  for (int i = 0; i < 100000; ++i) reserve.on_preemption();
  EXPECT_LE(reserve.share(), 0.1);
}

}  // namespace
}  // namespace nanoflow
