// A device that fails or hangs in the middle of serving: every request is answered, the reason says
// where, and nobody waits for the device again.
#include <chrono>
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backend/cpu/backend.h"
#include "base/abandoned.h"
#include "base/error.h"
#include "engine/engine.h"
#include "engine/step_runner.h"
#include "engine/worker_group.h"
#include "faulty_backend.h"
#include "model/config.h"
#include "model/source.h"

namespace nanoflow {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

ModelConfig tiny_model() {
  return parse_model_config(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
          "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 160, "hidden_act": "silu",
          "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
          "torch_dtype": "float32", "eos_token_id": 3, "bos_token_id": 1})",
      "");
}

class EngineFaults : public ::testing::Test {
 protected:
  void start(bool capture_graphs, double step_timeout_s = 0, int tp_size = 1) {
    EngineConfig config;
    config.max_num_batched_tokens = 32;
    config.max_num_seqs = 8;
    config.dtype = DType::kF32;
    config.tp_size = tp_size;
    config.kv_cache_bytes = 4096 * model_.kv_bytes_per_token(DType::kF32, tp_size);
    config.capture_graphs = capture_graphs;
    config.step_timeout_s = step_timeout_s;
    const auto source = make_dummy_source(model_);
    const auto make_backend = [&](Communicator& comm) -> std::unique_ptr<Backend> {
      CpuBackendOptions options;
      options.threads = 1;
      options.comm = &comm;
      auto backend = std::make_unique<CpuBackend>(options);
      if (comm.rank() != 0) return backend;
      return std::make_unique<FaultyBackend>(std::move(backend), faults_);
    };
    engine_ = std::make_unique<Engine>(
        config, make_worker_group(config, model_, *source, make_backend, logger_), clock_, logger_);
  }

  std::vector<RequestHandle> submit(int count) {
    std::vector<RequestHandle> handles;
    for (int i = 0; i < count; ++i) {
      Request request;
      for (int t = 0; t < 5; ++t) request.prompt.push_back(4 + (i * 7 + t) % 150);
      request.sampling.max_tokens = 200;
      request.sampling.ignore_eos = true;
      const auto handle = engine_->submit(std::move(request));
      if (handle.has_value()) handles.push_back(*handle);
    }
    return handles;
  }

  /// How a request ended.
  static TokenEvent last_event(const RequestHandle& handle) {
    while (true) {
      std::optional<TokenEvent> event = handle.events->pop(seconds(60));
      if (!event.has_value()) {
        ADD_FAILURE() << "request " << handle.id << " is never answered";
        return {};
      }
      if (event->finish) return *event;
    }
  }

  void expect_all_end_with_error(const std::vector<RequestHandle>& handles) {
    ASSERT_FALSE(handles.empty());
    for (const RequestHandle& handle : handles) {
      const TokenEvent event = last_event(handle);
      EXPECT_EQ(event.finish, FinishReason::kError);
      EXPECT_THAT(event.error, HasSubstr(engine_->failure()));
    }
    engine_->drain();
    EXPECT_FALSE(engine_->healthy());
    EXPECT_EQ(engine_->submit({.prompt = {5}}).error().code, ErrorCode::kInternal);
    EXPECT_EQ(engine_->stats().kv_pages_used, 0);
  }

  ModelConfig model_ = tiny_model();
  std::shared_ptr<Faults> faults_ = std::make_shared<Faults>();  // also the backend's
  SteadyClock clock_;
  Logger logger_{LogLevel::kOff};
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineFaults, AnErrorInAStepEndsWhatIsInFlightAndNamesTheStep) {
  for (const bool captured : {true, false}) {
    faults_ = std::make_shared<Faults>();
    start(captured);
    faults_->waits_left = 12;
    const std::vector<RequestHandle> handles = submit(20);
    expect_all_end_with_error(handles);
    EXPECT_THAT(engine_->failure(), HasSubstr("step 12 ("));
    EXPECT_THAT(engine_->failure(), HasSubstr("injected: the device is lost"));
    EXPECT_EQ(engine_->failure().find('\n'), std::string::npos);
    engine_.reset();
    EXPECT_TRUE(faults_->is_destroyed);
  }
}

TEST_F(EngineFaults, AnErrorOfOneOfTwoRanksEndsBoth) {
  start(true, 0, 2);
  faults_->waits_left = 3;
  expect_all_end_with_error(submit(4));
  EXPECT_THAT(engine_->failure(), HasSubstr("injected: the device is lost"));
}

TEST_F(EngineFaults, ALaunchThatIsRefusedNamesTheOperation) {
  start(false);
  faults_->launches_left = 15;  // in the second layer of the first step
  expect_all_end_with_error(submit(4));
  EXPECT_THAT(engine_->failure(), ::testing::ContainsRegex("step [0-9]+ \\(.* of layer [0-9], "
                                                           "rows 0 to .*injected: the launch"));
}

TEST_F(EngineFaults, WhatFinishedBeforeTheErrorIsKept) {
  start(true);
  std::vector<RequestHandle> early = submit(3);
  for (const RequestHandle& handle : early)
    EXPECT_EQ(last_event(handle).finish, FinishReason::kLength);
  faults_->waits_left = 2;
  const std::vector<RequestHandle> late = submit(3);  // fewer where the engine has failed by then
  expect_all_end_with_error(late);
  EXPECT_EQ(engine_->stats().finished_length, 3);
  EXPECT_EQ(engine_->stats().finished_error, static_cast<int64_t>(late.size()));
}

TEST_F(EngineFaults, AStepThatNeverEndsFailsTheEngineAndIsNotWaitedForAgain) {
  for (const int tp_size : {1, 2}) {
    faults_ = std::make_shared<Faults>();
    start(true, 0.5, tp_size);
    faults_->hangs = true;
    faults_->waits_left = 4;
    const auto begin = std::chrono::steady_clock::now();
    expect_all_end_with_error(submit(20));
    EXPECT_THAT(engine_->failure(), HasSubstr("step 4 ("));
    EXPECT_THAT(engine_->failure(), HasSubstr("it has not ended in 0.5 s"));
    EXPECT_THAT(engine_->failure(), HasSubstr("--step-timeout"));
    engine_->shutdown();
    engine_.reset();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(60));
    EXPECT_TRUE(anything_abandoned());
    EXPECT_FALSE(faults_->is_destroyed) << "freeing what a hung device uses waits for it";
    faults_->release();
  }
}

TEST_F(EngineFaults, AHangWhileStoppingIsNotWaitedForEither) {
  start(true, 0.5);
  faults_->hangs = true;
  faults_->waits_left = 4;
  const std::vector<RequestHandle> handles = submit(2);
  {
    std::unique_lock lock(faults_->mutex);
    ASSERT_TRUE(faults_->changed.wait_for(lock, seconds(60), [&] { return faults_->is_hanging; }));
  }
  engine_.reset();
  for (const RequestHandle& handle : handles) {
    const FinishReason reason = *last_event(handle).finish;
    EXPECT_TRUE(reason == FinishReason::kAbort || reason == FinishReason::kError);
  }
  EXPECT_FALSE(faults_->is_destroyed);
  faults_->release();
}

TEST_F(EngineFaults, ATimeLimitThatIsKeptChangesNothing) {
  start(true, 30);
  for (const RequestHandle& handle : submit(6))
    EXPECT_EQ(last_event(handle).finish, FinishReason::kLength);
  EXPECT_TRUE(engine_->healthy());
}

}  // namespace
}  // namespace nanoflow
