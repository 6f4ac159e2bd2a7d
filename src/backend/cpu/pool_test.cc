#include "backend/cpu/pool.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "backend/cpu/parallel.h"

namespace nanoflow::cpu {
namespace {

TEST(PoolTest, VisitsEveryIterationOnceOnDistinctSlots) {
  Pool pool(3);
  const cpu::Run run{.threads = 4, .pool = &pool};
  for (int64_t count = 0; count < 200; ++count) {
    std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
    std::atomic<int> inside[4] = {};
    parallel_slots(run, count, 1, [&](int64_t begin, int64_t end, int slot) {
      EXPECT_TRUE(slot >= 0 && slot < 4);
      EXPECT_EQ(inside[slot].fetch_add(1), 0) << "two threads share slot " << slot;
      for (int64_t i = begin; i < end; ++i) visits[static_cast<size_t>(i)].fetch_add(1);
      inside[slot].fetch_sub(1);
    });
    for (const auto& v : visits) ASSERT_EQ(v.load(), 1) << count;
  }
}

TEST(PoolTest, ServesSeveralLanesAtOnce) {
  Pool pool(2);
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < 3; ++lane)
    lanes.emplace_back([&] {
      const cpu::Run run{.threads = 3, .pool = &pool};
      for (int round = 0; round < 300; ++round) {
        std::atomic<int64_t> total = 0;
        parallel_chunks(run, 100, 3, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) total.fetch_add(i);
        });
        ASSERT_EQ(total.load(), 4950);
      }
    });
  for (std::thread& t : lanes) t.join();
}

TEST(PoolTest, RespectsTheThreadLimit) {
  Pool pool(3);
  const cpu::Run run{.threads = 2, .pool = &pool};
  parallel_slots(run, 1000, 1, [&](int64_t, int64_t, int slot) { EXPECT_LT(slot, 2); });
  parallel_slots(cpu::Run{.threads = 1}, 10, 1,
                 [&](int64_t begin, int64_t end, int) { EXPECT_EQ(end - begin, 10); });
}

}  // namespace
}  // namespace nanoflow::cpu
