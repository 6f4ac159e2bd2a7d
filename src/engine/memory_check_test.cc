// What a start refuses, and which options its message names.
#include "engine/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kGib = int64_t{1} << 30;

/// An 8 B model: 15 GiB of weights, 1 GiB of work memory, 128 KiB per token.
MemoryNeed eight_billion(int64_t max_model_len) {
  return {.weight_bytes = 15 * kGib,
          .work_bytes = kGib,
          .page_bytes = 64 * (128 << 10),
          .page_tokens = 64,
          .max_model_len = max_model_len};
}

std::string refusal(const EngineConfig& config, const MemoryNeed& need, int64_t free_gib) {
  try {
    require_memory(config, need,
                   {.name = "A GPU", .memory_bytes = 24 * kGib, .free_bytes = free_gib * kGib});
  } catch (const OutOfMemory& e) {
    return e.what();
  }
  return "";
}

TEST(MemoryCheck, WhatFitsPasses) {
  EXPECT_EQ(refusal({}, eight_billion(8192), 18), "");  // 1.8 GiB for 1 GiB
  EXPECT_EQ(refusal({}, eight_billion(0), 17), "");
  EngineConfig config;
  config.kv_cache_bytes = 2 * kGib;
  EXPECT_EQ(refusal(config, eight_billion(16384), 18), "");
}

TEST(MemoryCheck, WeightsThatDoNotFitAskForASmallerModel) {
  const std::string message = refusal({}, eight_billion(8192), 15);
  EXPECT_THAT(message, HasSubstr("A GPU has 15.0 GiB free of 24.0 GiB"));
  EXPECT_THAT(message, HasSubstr("15.0 GiB of weights, 1.0 GiB of work memory"));
  EXPECT_THAT(message,
              HasSubstr("KV cache of 1.0 GiB for a request of 8192 tokens: use a smaller"));
  EXPECT_THAT(message, Not(HasSubstr("--")));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
}

TEST(MemoryCheck, WorkThatDoesNotFitNamesTheStep) {
  const std::string message = refusal({}, eight_billion(8192), 16);
  EXPECT_THAT(message, HasSubstr("lower --max-num-batched-tokens (now 2048)"));
  EXPECT_THAT(message, HasSubstr("--max-num-seqs (now 256)"));
  EXPECT_THAT(message, Not(HasSubstr("--max-model-len")));
}

TEST(MemoryCheck, ARequestThatDoesNotFitSaysHowLongOneMayBe) {
  const std::string message = refusal({}, eight_billion(131072), 20);  // 3.6 GiB of 4 for 16 GiB
  EXPECT_THAT(message, HasSubstr("lower --max-model-len (now 131072) to 29440"));
  EXPECT_THAT(message, HasSubstr("raise --kv-memory-fraction (now 0.9)"));
  EXPECT_THAT(message, HasSubstr("a smaller model"));
  EXPECT_EQ(refusal({}, eight_billion(29440), 20), "");
  EXPECT_NE(refusal({}, eight_billion(29440 + 64), 20), "");
}

TEST(MemoryCheck, ACacheOfTheOperatorsSizeIsHeldAgainstWhatIsLeft) {
  EngineConfig config;
  config.kv_cache_bytes = 3 * kGib;
  EXPECT_THAT(refusal(config, eight_billion(8192), 18),
              HasSubstr("lower --kv-cache-gib (now 3.0), of which 2.0 are left"));
  config.kv_cache_bytes = kGib;
  const std::string message = refusal(config, eight_billion(16384), 20);
  EXPECT_THAT(message, HasSubstr("lower --max-model-len (now 16384) to 8192"));
  EXPECT_THAT(message, HasSubstr("raise --kv-cache-gib (now 1.0)"));
}

}  // namespace
}  // namespace nanoflow
