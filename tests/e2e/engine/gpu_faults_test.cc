// A kernel that breaks the GPU's context, and one that holds the GPU, under a serving engine. Each
// runs in a process of its own, and that process must end.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "backend/cuda/device.h"
#include "backend/cuda/factory.h"
#include "base/abandoned.h"
#include "engine/engine.h"
#include "engine/step_runner.h"
#include "engine/worker_group.h"
#include "fault_kernels.h"
#include "faulty_backend.h"
#include "model/config.h"
#include "model/source.h"

namespace nanoflow {
namespace {

constexpr double kSpinSeconds = 8;

ModelConfig small_model() {
  return parse_model_config(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
          "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1024, "hidden_act": "silu",
          "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
          "torch_dtype": "bfloat16", "eos_token_id": 3, "bos_token_id": 1})",
      "");
}

/// Serves eight requests while `fault` strikes in step 20; the reason why the engine failed.
std::string serve_with(void (*fault)(), double& seconds_after_fault) {
  const ModelConfig model = small_model();
  const auto source = make_dummy_source(model);
  EngineConfig config;
  config.max_num_seqs = 16;
  config.max_num_batched_tokens = 64;
  config.kv_cache_bytes = int64_t{64} << 20;
  config.step_timeout_s = 2;
  const auto faults = std::make_shared<Faults>();  // also the backend's
  SteadyClock clock;
  Logger logger(LogLevel::kOff);
  auto engine = std::make_unique<Engine>(config,
                                         make_worker_group(
                                             config, model, *source,
                                             [&](Communicator& comm) -> std::unique_ptr<Backend> {
                                               return std::make_unique<FaultyBackend>(
                                                   make_cuda_backend({.comm = &comm}), faults);
                                             },
                                             logger),
                                         clock, logger);
  faults->strike = fault;
  faults->waits_left = 20;
  const auto events = std::make_shared<EventQueue>();  // also the engine's
  constexpr int kRequests = 8;
  for (int i = 0; i < kRequests; ++i) {
    Request request;
    request.prompt = {5, 6, 7};
    request.sampling.max_tokens = 400;
    request.sampling.ignore_eos = true;
    if (!engine->submit(std::move(request), events).has_value()) return "refused";
  }
  double struck_s = 0;
  for (int ended = 0; ended < kRequests;) {
    const std::optional<TokenEvent> event = events->pop(std::chrono::seconds(30));
    if (!event.has_value()) return "never answered";
    if (faults->waits_left < 0 && struck_s == 0) struck_s = clock.now_s();
    if (!event->finish) continue;
    if (event->finish != FinishReason::kError) return "finished";
    ++ended;
  }
  const std::string failure = engine->failure();
  engine.reset();
  seconds_after_fault = clock.now_s() - struck_s;
  return failure;
}

class GpuFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fork of a process that uses CUDA cannot
    if (::testing::internal::InDeathTestChild()) return;
    const cuda::DeviceSurvey survey = cuda::survey_devices();
    ASSERT_EQ(survey.problem, "");
    if (survey.devices.empty()) GTEST_SKIP() << "no NVIDIA GPU is visible";
  }
};

[[noreturn]] void end_with(const std::string& failure, double seconds) {
  std::fprintf(stderr, "failure: %s; all over %.1f s after the first sign\n", failure.c_str(),
               seconds);
  if (anything_abandoned()) std::_Exit(7);
  std::exit(8);
}

TEST_F(GpuFaults, AKernelThatTrapsEndsRequestsWithAnError) {
  EXPECT_EXIT(
      {
        double seconds = 0;
        const std::string failure = serve_with(launch_trap, seconds);
        end_with(failure, seconds);
      },
      ::testing::ExitedWithCode(8), "failure: step [0-9]+ \\(.*CUDA: .* failed: .*enforce-eager");
}

TEST_F(GpuFaults, AKernelThatHoldsTheGpuEndsRequestsInTimeAndTheProcessToo) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EXIT(
      {
        double seconds = 0;
        const std::string failure = serve_with([] { launch_spin(kSpinSeconds); }, seconds);
        if (seconds > kSpinSeconds / 2) std::_Exit(9);
        end_with(failure, seconds);
      },
      ::testing::ExitedWithCode(7), "failure: step [0-9]+ \\(.*it has not ended in 2 s");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("the process took %.1f s, of which the kernel would have held the GPU %.1f s\n",
              took.count(), kSpinSeconds);
}

}  // namespace
}  // namespace nanoflow
