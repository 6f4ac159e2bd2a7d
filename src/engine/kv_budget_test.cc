#include "engine/kv_budget.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;

// A page of 16 tokens takes a mebibyte.
constexpr MemoryNeed kPage{.page_bytes = 1 << 20, .page_tokens = 16};

DeviceInfo device(Device::Kind kind, int64_t free_bytes) {
  return {.device = {.kind = kind}, .free_bytes = free_bytes};
}

TEST(KvBudget, TheCacheGetsAShareOfWhatIsFree) {
  EngineConfig config;
  config.kv_memory_fraction = 0.5;
  EXPECT_EQ(affordable_pages(config, kPage, 1 << 20, device(Device::Kind::kCuda, 2 * kGib)), 1024);
  config.tp_size = 4;
  EXPECT_EQ(affordable_pages(config, kPage, 1 << 20, device(Device::Kind::kCuda, 2 * kGib)), 1024)
      << "each rank has a GPU of its own";
  EXPECT_EQ(affordable_pages(config, kPage, 1 << 20, device(Device::Kind::kHost, 2 * kGib)), 256)
      << "ranks share a host's memory";
}

TEST(KvBudget, TheOperatorsBytesCountAndNotWhatIsFree) {
  EngineConfig config;
  config.kv_cache_bytes = kGib;
  EXPECT_EQ(affordable_pages(config, kPage, 1 << 20, device(Device::Kind::kHost, 0)), 1024);
}

TEST(KvBudget, NoMorePagesThanRequestsCanUse) {
  EngineConfig config;
  config.max_num_seqs = 3;
  EXPECT_EQ(affordable_pages(config, kPage, 33, device(Device::Kind::kHost, kGib)), 9);
}

TEST(KvBudget, NothingLeftGivesNoPage) {
  EXPECT_EQ(affordable_pages({}, kPage, 100, device(Device::Kind::kHost, -kGib)), 0);
  EXPECT_EQ(affordable_pages({}, kPage, 100, device(Device::Kind::kHost, 1000)), 0);
}

}  // namespace
}  // namespace nanoflow
