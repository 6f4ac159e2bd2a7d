#include "text/rank_queue.h"

#include <cstdint>
#include <random>
#include <set>
#include <utility>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

/// Pops one entry from both; false when both are empty.
bool pop_same(RankQueue& queue, std::multiset<std::pair<uint32_t, uint32_t>>& want) {
  RankQueue::Entry entry;
  const bool any = queue.pop(entry);
  EXPECT_EQ(any, !want.empty());
  if (!any || want.empty()) return false;
  EXPECT_EQ(std::pair(entry.rank, entry.position), *want.begin());
  want.erase(want.begin());
  return true;
}

TEST(RankQueue, PopsInOrderWhateverIsPushedBetween) {
  std::mt19937 rng(3);
  RankQueue queue;  // one for all: it must be as new after each round
  for (int round = 0; round < 300; ++round) {
    const uint32_t ranks = 1u << (rng() % 20);
    const uint32_t positions = 1u << (rng() % 22);
    std::multiset<std::pair<uint32_t, uint32_t>> want;
    const auto push = [&] {
      const std::pair<uint32_t, uint32_t> entry{rng() % ranks, rng() % positions};
      queue.push(entry.first, entry.second);
      want.insert(entry);
    };
    for (uint32_t i = rng() % 5000; i > 0; --i) push();
    for (uint32_t pushes = rng() % 2000; pop_same(queue, want); pushes -= pushes > 0)
      for (uint32_t i = pushes > 0 ? rng() % 3 : 0; i > 0; --i) push();
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
}

TEST(RankQueue, TheHighestRankAndPositionCount) {
  RankQueue queue;
  std::multiset<std::pair<uint32_t, uint32_t>> want;
  for (const uint32_t rank : {UINT32_MAX - 1, 0u, UINT32_MAX / 2}) {
    for (const uint32_t position : {UINT32_MAX, 0u, UINT32_MAX - 1}) {
      queue.push(rank, position);
      want.insert({rank, position});
    }
  }
  while (pop_same(queue, want)) {
  }
}

TEST(RankQueue, SortsLongRuns) {
  std::mt19937 rng(5);
  RankQueue queue;
  std::multiset<std::pair<uint32_t, uint32_t>> want;
  for (int i = 0; i < 20000; ++i) {
    const std::pair<uint32_t, uint32_t> entry{7, static_cast<uint32_t>(rng())};
    queue.push(entry.first, entry.second);
    want.insert(entry);
  }
  while (pop_same(queue, want)) {
  }
}

}  // namespace
}  // namespace nanoflow
