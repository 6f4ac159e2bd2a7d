// The engine's thread: submitting and cancelling from many threads, shutting down, failing workers.
#include "engine/engine.h"

#include <atomic>
#include <limits>
#include <map>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/fake_runner.h"

namespace nanoflow {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

EngineConfig small_config() {
  EngineConfig config;
  config.max_num_batched_tokens = 32;
  config.max_num_seqs = 8;
  return config;
}

Request request_of(int64_t prompt, std::optional<int64_t> max_tokens, RequestId id = 0) {
  Request request;
  request.id = id;
  for (int64_t i = 0; i < prompt; ++i) request.prompt.push_back(static_cast<int32_t>(i * 7 % 900));
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

class EngineTest : public ::testing::Test {
 protected:
  Engine& start(const EngineConfig& config, uint64_t eos_period = 40) {
    auto runner =
        std::make_unique<fake::FakeRunner>(fake::small_limits(), config.max_num_seqs, eos_period);
    runner->on_launch = [this](const StepBatch& batch) {
      if (on_launch_) on_launch_(batch);
    };
    runner->on_results = [this] {
      if (on_results_) on_results_();
    };
    engine_ = std::make_unique<Engine>(config, std::move(runner), clock_, logger_);
    return *engine_;
  }

  /// All events of a request up to its last one.
  static std::vector<TokenEvent> collect(const RequestHandle& handle) {
    std::vector<TokenEvent> events;
    while (events.empty() || !events.back().finish) {
      auto event = handle.events->pop(seconds(20));
      if (!event) {
        ADD_FAILURE() << "request " << handle.id << " hangs";
        break;
      }
      events.push_back(std::move(*event));
    }
    return events;
  }

  std::function<void(const StepBatch&)> on_launch_;
  std::function<void()> on_results_;
  SteadyClock clock_;
  Logger logger_{LogLevel::kOff};
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, AnswersTokenByToken) {
  Engine& engine = start(small_config());
  Request request = request_of(10, 6);
  request.sampling.logprobs = 3;
  const auto handle = engine.submit(request);
  ASSERT_TRUE(handle.has_value());
  const std::vector<TokenEvent> events = collect(*handle);
  ASSERT_EQ(events.size(), 6u);
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].request_id, handle->id);
    ASSERT_EQ(events[i].tokens.size(), 1u);
    ASSERT_EQ(events[i].logprobs.size(), 1u);
    EXPECT_EQ(events[i].logprobs[0].token, events[i].tokens[0]);
    EXPECT_EQ(events[i].logprobs[0].top.size(), 3u);
    EXPECT_EQ(events[i].output_tokens, static_cast<int64_t>(i) + 1);
    EXPECT_EQ(events[i].prompt_tokens, 10);
    EXPECT_GE(events[i].times.event_ns, events[i].times.first_token_ns);
    EXPECT_GE(events[i].times.first_token_ns, events[i].times.first_scheduled_ns);
    EXPECT_GE(events[i].times.first_scheduled_ns, events[i].times.submitted_ns);
  }
  EXPECT_EQ(events.back().finish, FinishReason::kLength);
  engine.drain();
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.output_tokens, 6);
  EXPECT_EQ(stats.finished_length, 1);
  EXPECT_EQ(stats.kv_pages_used, 0);
}

TEST_F(EngineTest, RefusesWhatItCannotServe) {
  Engine& engine = start(small_config());
  const auto code = [&](const Request& r) { return engine.submit(r).error().code; };
  EXPECT_EQ(code(request_of(0, 5)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(request_of(200, 1)), ErrorCode::kContextTooLong);
  EXPECT_EQ(code(request_of(200, std::nullopt)), ErrorCode::kContextTooLong);
  EXPECT_EQ(code(request_of(201, 0)), ErrorCode::kContextTooLong);
  const Error error = engine.submit(request_of(150, 51)).error();
  EXPECT_EQ(error.code, ErrorCode::kContextTooLong);
  EXPECT_NE(error.message.find("201"), std::string::npos) << error.message;
  EXPECT_NE(error.message.find("200"), std::string::npos) << error.message;
  Request bad = request_of(3, 3);
  bad.prompt[1] = fake::kVocab;
  EXPECT_EQ(engine.submit(bad).error().param, "prompt");
  EXPECT_TRUE(engine.submit(request_of(200, 0)).has_value());
  engine.drain();
}

TEST_F(EngineTest, EveryBadParameterIsNamed) {
  const auto param = [](auto change) {
    SamplingParams p;
    change(p);
    const auto result = p.validate(fake::kVocab);
    return result ? std::string("accepted") : result.error().param;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(param([](auto&) {}), "accepted");
  EXPECT_EQ(param([](auto& p) { p.max_tokens = -1; }), "max_tokens");
  EXPECT_EQ(param([](auto& p) { p.min_tokens = -1; }), "min_tokens");
  EXPECT_EQ(param([](auto& p) { p.max_tokens = 3, p.min_tokens = 4; }), "min_tokens");
  EXPECT_EQ(param([](auto& p) { p.temperature = -0.1; }), "temperature");
  EXPECT_EQ(param([&](auto& p) { p.temperature = nan; }), "temperature");
  EXPECT_EQ(param([](auto& p) { p.top_k = -2; }), "top_k");
  EXPECT_EQ(param([](auto& p) { p.top_p = 1.1; }), "top_p");
  EXPECT_EQ(param([](auto& p) { p.min_p = -0.1; }), "min_p");
  EXPECT_EQ(param([](auto& p) { p.repetition_penalty = 0; }), "repetition_penalty");
  EXPECT_EQ(param([](auto& p) { p.presence_penalty = 2.1; }), "presence_penalty");
  EXPECT_EQ(param([](auto& p) { p.frequency_penalty = -2.1; }), "frequency_penalty");
  EXPECT_EQ(param([](auto& p) { p.logprobs = 21; }), "logprobs");
  EXPECT_EQ(param([](auto& p) { p.prompt_logprobs = -2; }), "prompt_logprobs");
  EXPECT_EQ(param([](auto& p) { p.stop_token_ids = {-1}; }), "stop_token_ids");
  EXPECT_EQ(param([](auto& p) { p.stop_token_ids.resize(129); }), "stop_token_ids");
  EXPECT_EQ(param([](auto& p) { p.logit_bias = {{1000, 1.0F}}; }), "logit_bias");
  EXPECT_EQ(param([](auto& p) { p.logit_bias.resize(1025); }), "logit_bias");
}

TEST_F(EngineTest, SettingsAreChecked) {
  const auto field = [](auto change) -> std::string {
    EngineConfig config;
    change(config);
    try {
      config.validate();
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  };
  const auto names = [](const std::string& message, const char* name) {
    return message.find(name) != std::string::npos;
  };
  EXPECT_EQ(field([](auto&) {}), "");
  EXPECT_TRUE(
      names(field([](auto& c) { c.max_num_batched_tokens = 0; }), "--max-num-batched-tokens"));
  EXPECT_TRUE(names(field([](auto& c) { c.max_num_seqs = 4096; }), "--max-num-seqs"));
  EXPECT_TRUE(names(field([](auto& c) { c.max_model_len = -1; }), "--max-model-len"));
  EXPECT_TRUE(names(field([](auto& c) { c.kv_memory_fraction = 1.5; }), "--kv-memory-fraction"));
  EXPECT_TRUE(names(field([](auto& c) { c.kv_cache_bytes = -1; }), "--kv-cache-gib"));
  EXPECT_TRUE(names(field([](auto& c) { c.dtype = DType::kI32; }), "--dtype"));
  EXPECT_TRUE(names(field([](auto& c) { c.tp_size = 0; }), "--tensor-parallel-size"));
  EXPECT_TRUE(names(field([](auto& c) { c.load_threads = -1; }), "--threads"));
  EXPECT_TRUE(names(field([](auto& c) { c.pipeline = ""; }), "--pipeline"));
  EXPECT_TRUE(names(field([](auto& c) { c.max_queue_size = 0; }), "max_queue_size"));
  EngineConfig longer = small_config();
  longer.max_model_len = 201;
  EXPECT_THROW(start(longer), ConfigError);
}

TEST_F(EngineTest, AFullQueueRefusesAndRoomComesBack) {
  EngineConfig config = small_config();
  config.max_num_seqs = 1;
  config.max_queue_size = 3;
  std::atomic<bool> go{false};
  on_launch_ = [&](const StepBatch&) {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
  };
  Engine& engine = start(config);
  int accepted = 0;
  std::optional<Error> error;
  for (int i = 0; i < 10 && !error; ++i) {
    const auto handle = engine.submit(request_of(4, 4));
    if (handle) {
      ++accepted;
    } else {
      error = handle.error();
    }
  }
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kResourceExhausted);
  EXPECT_GE(accepted, 3);
  EXPECT_FALSE(engine.wait_for_room(milliseconds(5)));
  go = true;
  EXPECT_TRUE(engine.wait_for_room(seconds(10)));
  EXPECT_TRUE(engine.submit(request_of(4, 4)).has_value());
  engine.drain();
  EXPECT_EQ(engine.stats().finished_length, accepted + 1);
}

TEST_F(EngineTest, AnIdInFlightCannotBeUsedTwice) {
  std::atomic<bool> go{false};
  on_launch_ = [&](const StepBatch&) {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
  };
  Engine& engine = start(small_config());
  const auto first = engine.submit(request_of(4, 4, 77));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(engine.submit(request_of(4, 4, 77)).error().param, "id");
  go = true;
  collect(*first);
  const auto again = engine.submit(request_of(4, 4, 77));  // finished: free again
  ASSERT_TRUE(again.has_value());
  collect(*again);
}

TEST_F(EngineTest, CancelEndsARequestOnce) {
  Engine& engine = start(small_config());
  on_results_ = [] { std::this_thread::sleep_for(milliseconds(1)); };
  const auto handle = engine.submit(request_of(4, 190));
  ASSERT_TRUE(handle.has_value());
  ASSERT_TRUE(handle->events->pop(seconds(10)).has_value());
  engine.cancel(handle->id);
  engine.cancel(handle->id);
  engine.cancel(12345);
  const std::vector<TokenEvent> events = collect(*handle);
  EXPECT_EQ(events.back().finish, FinishReason::kAbort);
  engine.cancel(handle->id);
  EXPECT_FALSE(handle->events->pop(milliseconds(20)).has_value());
}

TEST_F(EngineTest, OneQueueServesManyRequests) {
  Engine& engine = start(small_config());
  std::atomic<int> woken{0};
  const auto events = std::make_shared<EventQueue>([&] { ++woken; });
  std::map<RequestId, int64_t> tokens;
  std::set<RequestId> open;
  for (RequestId id = 1; id <= 100; ++id) {
    open.insert(id);
    ASSERT_TRUE(engine.submit(request_of(4, 5, id), events).has_value());
  }
  while (!open.empty()) {
    const std::vector<TokenEvent> batch = events->pop_all(seconds(20));
    ASSERT_FALSE(batch.empty());
    for (const TokenEvent& event : batch) {
      tokens[event.request_id] += static_cast<int64_t>(event.tokens.size());
      if (event.finish) {
        EXPECT_EQ(open.erase(event.request_id), 1u);
      }
    }
  }
  for (const auto& [id, count] : tokens) EXPECT_EQ(count, 5);
  EXPECT_GT(woken, 0);
}

TEST_F(EngineTest, ManyThreadsSubmitAndCancel) {
  Engine& engine = start(small_config());
  std::atomic<int> finished{0};
  std::vector<std::thread> clients;
  for (uint32_t t = 0; t < 4; ++t) {
    clients.emplace_back([&, t] {
      for (uint32_t i = 0; i < 50; ++i) {
        auto handle = engine.submit(request_of(1 + (i * 13 + t) % 60, 1 + i % 40));
        ASSERT_TRUE(handle.has_value());
        if (i % 3 == 0) engine.cancel(handle->id);
        if (i % 5 == 0) (void)engine.stats();
        const auto events = collect(*handle);
        if (i % 3 != 0) {
          EXPECT_EQ(events.back().output_tokens, 1 + i % 40);
        }
        ++finished;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(finished, 200);
  engine.drain();
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.finished_length + stats.finished_abort, 200);
  EXPECT_EQ(stats.running + stats.waiting + stats.kv_pages_used, 0);
}

TEST_F(EngineTest, ShutdownAbortsWhatRuns) {
  Engine& engine = start(small_config());
  on_results_ = [] { std::this_thread::sleep_for(milliseconds(1)); };
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 30; ++i) handles.push_back(*engine.submit(request_of(4, 190)));
  std::thread other([&] { engine.shutdown(); });
  engine.shutdown();
  other.join();
  for (const RequestHandle& handle : handles) {
    EXPECT_EQ(collect(handle).back().finish, FinishReason::kAbort);
  }
  EXPECT_EQ(engine.submit(request_of(4, 4)).error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(engine.wait_for_room(seconds(10)));
  EXPECT_TRUE(engine.healthy());
  engine.drain();  // returns at once
}

TEST_F(EngineTest, DrainFinishesWhatWasAccepted) {
  Engine& engine = start(small_config());
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 20; ++i) handles.push_back(*engine.submit(request_of(4, 20)));
  engine.drain();
  EXPECT_FALSE(engine.submit(request_of(4, 4)).has_value());
  for (const RequestHandle& handle : handles) {
    EXPECT_EQ(collect(handle).back().finish, FinishReason::kLength);
  }
}

class WorkerFailure : public EngineTest, public ::testing::WithParamInterface<bool> {};

/// Fails its first step and reads the batches of all its steps when it ends, as a thread does that
/// has yet to launch the second one.
class LateRunner final : public StepRunner {
 public:
  explicit LateRunner(int64_t& rows_read) : rows_read_(rows_read) {}
  ~LateRunner() override {
    for (const StepBatch* batch : batches_) rows_read_ += batch->header.num_rows;
  }
  [[nodiscard]] EngineLimits limits() const override { return fake::small_limits(); }
  void launch(const StepBatch& batch) override { batches_.push_back(&batch); }
  StepResults results() override { throw EnvironmentError("the device is lost"); }

 private:
  int64_t& rows_read_;
  std::vector<const StepBatch*> batches_;
};

TEST_F(EngineTest, BatchesOutliveARunnerThatFailed) {
  int64_t rows_read = 0;
  auto engine = std::make_unique<Engine>(small_config(), std::make_unique<LateRunner>(rows_read),
                                         clock_, logger_);
  const auto handle = engine->submit(request_of(5, 20));
  ASSERT_TRUE(handle.has_value());
  const auto event = handle->events->pop(seconds(20));
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->finish, FinishReason::kError);
  engine.reset();
  EXPECT_EQ(rows_read, 6);  // the prompt's, and one of the step that followed
}

TEST_P(WorkerFailure, EndsEveryRequestWithAnError) {
  std::atomic<int> calls{0};
  const auto break_down = [&] {
    if (++calls == 10) throw EnvironmentError("device lost");
  };
  if (GetParam()) {
    on_launch_ = [&](const StepBatch&) { break_down(); };
  } else {
    on_results_ = break_down;
  }
  Engine& engine = start(small_config());
  std::vector<RequestHandle> handles;
  for (int i = 0; i < 20; ++i) {
    auto handle = engine.submit(request_of(4, 190));
    if (handle) handles.push_back(*handle);
  }
  ASSERT_FALSE(handles.empty());
  for (const RequestHandle& handle : handles) {
    const TokenEvent last = collect(handle).back();
    EXPECT_EQ(last.finish, FinishReason::kError);
    EXPECT_NE(last.error.find("device lost"), std::string::npos);
  }
  engine.drain();
  EXPECT_FALSE(engine.healthy());
  EXPECT_NE(engine.failure().find("rows, "), std::string::npos) << engine.failure();
  EXPECT_NE(engine.failure().find("decodes): device lost"), std::string::npos) << engine.failure();
  EXPECT_EQ(engine.failure().find("step "), 0u) << engine.failure();
  const Error error = engine.submit(request_of(4, 4)).error();
  EXPECT_EQ(error.code, ErrorCode::kInternal);
  EXPECT_NE(error.message.find("device lost"), std::string::npos);
  EXPECT_EQ(engine.stats().kv_pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Where, WorkerFailure, ::testing::Bool());

}  // namespace
}  // namespace nanoflow
