#include "server/log_line.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(ActivityLine, IsSilentWhileNothingHappens) {
  EngineStats stats;
  stats.steps = 7;
  stats.output_tokens = 100;
  EXPECT_EQ(activity_line(stats, stats, 10), "");
}

TEST(ActivityLine, TellsRatesOfTheTimeBetween) {
  EngineStats before, now;
  before.steps = 5;
  before.prompt_tokens = 100;
  now.steps = 25;
  now.prompt_tokens = 1100;
  now.output_tokens = 50;
  now.running = 3;
  now.waiting = 2;
  now.kv_pages_used = 1;
  now.kv_pages_total = 8;
  now.idle_ns = 2'500'000'000;
  EXPECT_EQ(activity_line(before, now, 10),
            "prompt 100.0 tok/s, generation 5.0 tok/s, running 3, waiting 2, KV cache 12.5 %, "
            "20 steps, engine idle 25 %");
  now.preemptions = 4;
  EXPECT_TRUE(activity_line(before, now, 10).ends_with(", 4 preemptions"));
}

TEST(ActivityLine, ShowsWhatWaitsThoughNothingRuns) {
  EngineStats now;
  now.waiting = 1;
  EXPECT_NE(activity_line({}, now, 10), "");
}

}  // namespace
}  // namespace nanoflow
