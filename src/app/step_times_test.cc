#include "app/step_times.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

OpRecord op(const std::string& name, TimeKind kind, int64_t begin_ns, int64_t end_ns, double flops,
            double bytes) {
  OpRecord record{.name = name, .kind = kind};
  record.begin_ns = begin_ns;
  record.end_ns = end_ns;
  record.flops = flops;
  record.bytes = bytes;
  return record;
}

/// Eight timed steps of 90 ns and as many plain ones of 80 ns, 15 ns idle before each.
BusySnapshot some_steps() {
  BusyTimes busy;
  StepRecord step{.index = 0, .bucket = 8};
  step.begin_ns = 100;
  step.end_ns = 190;
  step.idle_ns = 15;
  step.ops = {op("qkv", TimeKind::kGemm, 100, 140, 2e4, 1000),
              op("attn_decode", TimeKind::kAttentionDecode, 145, 165, 1e3, 100),
              op("sample", TimeKind::kOther, 165, 175, 0, 0)};
  StepRecord plain{.index = 1, .bucket = 8};
  plain.end_ns = 80;
  plain.idle_ns = 15;
  for (int i = 0; i < 8; ++i) {
    busy.add(step);
    busy.add(plain);
  }
  return busy.snapshot();
}

TEST(StepTimes, SharesAddUpAndRatesStandBesideTheirCeilings) {
  const Ceilings ceilings{.gemm_flops = 1e12, .read_bytes_per_s = 2e10};
  const Json json = step_times_json(some_steps(), ceilings);
  const auto value = [&](std::string_view name) { return json.find(name)->as_double(); };
  EXPECT_NEAR(value("gaps_between_steps"), 30.0 / 200, 1e-12);
  EXPECT_NEAR(value("gaps_inside_steps"), 20.0 / 90 * 0.85, 1e-12);
  EXPECT_NEAR(value("gemm"), 40.0 / 90 * 0.85, 1e-12);
  EXPECT_NEAR(value("gemm") + value("attention_decode") + value("attention_prefill") +
                  value("network") + value("other") + value("gaps"),
              1, 1e-12);
  EXPECT_NEAR(value("gemm_flops_per_s"), 5e11, 1);
  EXPECT_NEAR(value("gemm_percent_of_flops_ceiling"), 50, 1e-9);
  EXPECT_NEAR(value("attention_decode_bytes_per_s"), 5e9, 1);
  EXPECT_NEAR(value("attention_decode_percent_of_bytes_ceiling"), 25, 1e-9);
  EXPECT_TRUE(json.find("attention_prefill_flops_per_s")->is_null());
  EXPECT_NEAR(value("timing_cost"), 90.0 / 80 - 1, 1e-12);
  EXPECT_EQ(value("overlap"), 0);
  std::string text;
  for (const auto& [name, line] : step_times_lines(some_steps(), ceilings))
    text += name + ": " + line + "\n";
  EXPECT_NE(text.find("GEMM: 0.50 TFLOP/s = 50.0 % of the ceiling"), std::string::npos) << text;
  EXPECT_NE(text.find("KV 5.0 GB/s = 25.0 % of the ceiling"), std::string::npos) << text;
  EXPECT_NE(text.find("8 of 16 steps, each 12.5 % longer for it"), std::string::npos) << text;
  EXPECT_EQ(text.find("prefill attention:"), std::string::npos) << text;
}

TEST(StepTimes, WithoutTimedStepsThereIsNoFigure) {
  EXPECT_TRUE(step_times_json({}, {}).is_null());
  EXPECT_EQ(step_times_lines({}, {}).front().second, "n/a (no step's operations were timed)");
}

}  // namespace
}  // namespace nanoflow
