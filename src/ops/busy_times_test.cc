#include "ops/busy_times.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

OpRecord op(const std::string& name, TimeKind kind, int64_t begin_ns, int64_t end_ns) {
  OpRecord record{.name = name, .kind = kind};
  record.begin_ns = begin_ns;
  record.end_ns = end_ns;
  record.flops = 100;
  record.bytes = 10;
  return record;
}

StepRecord step(int64_t bucket, int64_t begin_ns, int64_t end_ns, int64_t idle_ns = 0) {
  StepRecord record;
  record.bucket = bucket;
  record.begin_ns = begin_ns;
  record.end_ns = end_ns;
  record.idle_ns = idle_ns;
  return record;
}

TEST(BusyTimes, SumsKindsOpsOverlapAndIdleTime) {
  BusyTimes busy;
  StepRecord timed = step(8, 1000, 1050, 5);
  timed.ops = {op("qkv", TimeKind::kGemm, 1000, 1015), op("o", TimeKind::kGemm, 1030, 1040),
               op("attn_decode", TimeKind::kAttentionDecode, 1010, 1022),
               op("norm", TimeKind::kOther, 1022, 1022)};
  busy.add(timed);
  const BusySnapshot first = busy.snapshot();
  EXPECT_EQ(first.steps, 1);
  EXPECT_EQ(first.timed_ns, 50);
  EXPECT_EQ(first.idle_ns, 5);
  EXPECT_EQ(first.kind(TimeKind::kGemm).ns, 25);
  EXPECT_EQ(first.kind(TimeKind::kGemm).flops, 200);
  EXPECT_EQ(first.kind(TimeKind::kAttentionDecode).ns, 12);
  EXPECT_EQ(first.kind(TimeKind::kAttentionDecode).bytes, 10);
  EXPECT_EQ(first.op_ns.at("qkv"), 15);
  EXPECT_EQ(first.any_ns, 32) << "[1000, 1022) and [1030, 1040)";
  EXPECT_EQ(first.overlap_ns, 5) << "[1010, 1015)";
  busy.add(step(8, 1060, 1100, 10));
  busy.add(timed);
  const BusySnapshot later = busy.snapshot().since(first);
  EXPECT_EQ(later.steps, 2);
  EXPECT_EQ(later.step_ns, 90);
  EXPECT_EQ(later.idle_ns, 15);
  EXPECT_NEAR(later.idle_share(), 15.0 / 105, 1e-12);
  EXPECT_EQ(later.timed_steps, 1);
  EXPECT_EQ(later.kind(TimeKind::kGemm).ns, 25);
  EXPECT_EQ(later.op_ns.at("o"), 10);
  EXPECT_EQ(later.any_ns, 32);
}

TEST(BusyTimes, TimingCostComparesManyStepsOfTheSameBucket) {
  BusyTimes busy;
  StepRecord timed = step(8, 0, 110);
  timed.ops = {op("qkv", TimeKind::kGemm, 0, 100)};
  for (int64_t i = 0; i < BusySnapshot::kComparable; ++i) {
    EXPECT_FALSE(busy.snapshot().timing_cost().has_value()) << "too few to compare";
    busy.add(timed);
    busy.add(step(8, 200, i % 2 == 0 ? 290 : 310));
    busy.add(step(16, 500, 5000));  // another bucket's steps do not count
  }
  EXPECT_NEAR(busy.snapshot().timing_cost().value(), 0.1, 1e-12);
}

TEST(OpResource, FollowsKindAndPhase) {
  EXPECT_EQ(op_resource(GemmArgs{}), Resource::kCompute);
  EXPECT_EQ(op_resource(PagedAttentionArgs{.phase = Phase::kPrefill}), Resource::kCompute);
  EXPECT_EQ(op_resource(PagedAttentionArgs{.phase = Phase::kDecode}), Resource::kMemory);
  EXPECT_EQ(op_resource(AllReduceArgs{}), Resource::kNetwork);
  EXPECT_EQ(op_resource(RmsNormArgs{}), Resource::kMemory);
}

TEST(TimeKind, FollowsKindAndPhase) {
  EXPECT_EQ(time_kind(GroupedGemmArgs{}), TimeKind::kGemm);
  EXPECT_EQ(time_kind(PagedAttentionArgs{.phase = Phase::kPrefill}), TimeKind::kAttentionPrefill);
  EXPECT_EQ(time_kind(PagedAttentionArgs{.phase = Phase::kDecode}), TimeKind::kAttentionDecode);
  EXPECT_EQ(time_kind(AllGatherArgs{}), TimeKind::kNetwork);
  EXPECT_EQ(time_kind(SampleArgs{}), TimeKind::kOther);
  EXPECT_EQ(time_kind_name(TimeKind::kAttentionPrefill), "attention_prefill");
}

}  // namespace
}  // namespace nanoflow
