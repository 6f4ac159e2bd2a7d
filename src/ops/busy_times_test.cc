#include "ops/busy_times.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(BusyTimes, CountsResourcesAndOverlap) {
  ManualClock clock;
  BusyTimes busy(clock);
  const OpArgs gemm = GemmArgs{};
  const OpArgs decode = PagedAttentionArgs{.phase = Phase::kDecode};
  const int64_t gemm_begin = busy.begin();
  clock.advance_ns(10);
  const int64_t decode_begin = busy.begin();
  clock.advance_ns(5);
  busy.end(gemm, gemm_begin);
  const BusySnapshot middle = busy.snapshot();
  clock.advance_ns(7);
  busy.end(decode, decode_begin);
  clock.advance_ns(100);  // idle
  const BusySnapshot all = busy.snapshot();
  EXPECT_EQ(all.resource_ns, (std::array<int64_t, 3>{15, 12, 0}));
  EXPECT_EQ(all.any_ns, 22);
  EXPECT_EQ(all.overlap_ns, 5);
  EXPECT_EQ(all.op_ns.at("gemm"), 15);
  EXPECT_EQ(all.since(middle).resource_ns, (std::array<int64_t, 3>{0, 12, 0}));
  EXPECT_EQ(all.since(middle).any_ns, 7);
}

TEST(OpResource, FollowsKindAndPhase) {
  EXPECT_EQ(op_resource(GemmArgs{}), Resource::kCompute);
  EXPECT_EQ(op_resource(PagedAttentionArgs{.phase = Phase::kPrefill}), Resource::kCompute);
  EXPECT_EQ(op_resource(PagedAttentionArgs{.phase = Phase::kDecode}), Resource::kMemory);
  EXPECT_EQ(op_resource(AllReduceArgs{}), Resource::kNetwork);
  EXPECT_EQ(op_resource(RmsNormArgs{}), Resource::kMemory);
}

}  // namespace
}  // namespace nanoflow
