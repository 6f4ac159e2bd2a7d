// A device without a model still serves: every token arrives, the same ones each time, not early.
#include "engine/null_runner.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/fake_runner.h"

namespace nanoflow {
namespace {

using std::chrono::seconds;

const std::vector<int32_t> kIds = {11, 22, 33, 44, 55};

Request greedy(int64_t max_tokens, std::optional<int32_t> logprobs = std::nullopt) {
  Request request;
  request.prompt = {1, 2, 3};
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = 5;
  if (logprobs) request.sampling.logprobs = *logprobs;
  return request;
}

std::vector<int32_t> serve(const Request& request, int64_t step_ns) {
  SteadyClock clock;
  Logger logger{LogLevel::kOff};
  EngineConfig config;
  Engine engine(config, std::make_unique<NullRunner>(fake::small_limits(), kIds, step_ns), clock,
                logger);
  const auto handle = engine.submit(request);
  EXPECT_TRUE(handle.has_value());
  std::vector<int32_t> ids;
  while (handle.has_value()) {
    const auto event = handle->events->pop(seconds(20));
    if (!event.has_value()) {
      ADD_FAILURE() << "hangs";
      break;
    }
    ids.insert(ids.end(), event->tokens.begin(), event->tokens.end());
    for (const auto& logprob : event->logprobs) EXPECT_EQ(logprob.token, logprob.top.at(0).token);
    if (event->finish.has_value()) break;
  }
  engine.drain();
  EXPECT_EQ(engine.stats().kv_pages_used, 0);
  return ids;
}

TEST(NullRunner, ServesTheSameTokensEachTime) {
  const std::vector<int32_t> ids = serve(greedy(50), 0);
  ASSERT_EQ(ids.size(), 50u);
  for (const int32_t id : ids) EXPECT_NE(std::find(kIds.begin(), kIds.end(), id), kIds.end());
  EXPECT_NE(std::count(ids.begin(), ids.end(), ids[0]), 50) << "positions differ in their token";
  EXPECT_EQ(serve(greedy(50), 0), ids);
}

TEST(NullRunner, LogprobsComeWhereTheyAreWanted) {
  EXPECT_EQ(serve(greedy(4, 3), 0).size(), 4u);
}

TEST(NullRunner, StepsTakeTheirTime) {
  constexpr int64_t kStepNs = 2'000'000;
  const SteadyClock clock;
  const int64_t begin_ns = clock.now_ns();
  serve(greedy(10), kStepNs);
  EXPECT_GE(clock.now_ns() - begin_ns, 10 * kStepNs);
}

TEST(NullRunner, CacheHoldsEveryoneOrWhatWasAsked) {
  ModelConfig model;
  model.num_hidden_layers = 2;
  model.num_attention_heads = model.num_key_value_heads = 2;
  model.head_dim = 8;
  model.max_position_embeddings = 100;
  EngineConfig config;
  config.max_num_seqs = 3;
  EXPECT_EQ(null_limits(config, model).num_pages, 3 * 7);
  config.kv_cache_bytes = 5 * 16 * model.kv_bytes_per_token(DType::kBF16, 1);
  EXPECT_EQ(null_limits(config, model).num_pages, 5);
  config.kv_cache_bytes = 1;
  EXPECT_THROW((void)null_limits(config, model), ConfigError);
}

}  // namespace
}  // namespace nanoflow
