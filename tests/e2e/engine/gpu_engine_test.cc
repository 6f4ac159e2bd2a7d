// A whole engine on a GPU. A row's bits depend on its batch there, so what a request gets beside
// others, preempted or not, is held to what it gets alone in the sense of docs/architecture.md:
// log-probabilities within the derived bound at every position, other tokens only at near-ties.
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "backend/cuda/device.h"
#include "backend/cuda/factory.h"
#include "engine/step_runner.h"
#include "engine/worker_group.h"
#include "model/config.h"
#include "model/source.h"
#include "parity/golden.h"
#include "parity/sequential_model.h"
#include "run_requests.h"

namespace nanoflow {
namespace {

constexpr int64_t kVocab = 1000;
constexpr int64_t kAlternatives = 5;
constexpr size_t kPerToken = 2 + 2 * kAlternatives;  // logprob, rank, (token, logprob) of each

ModelConfig small_model(const std::string& architecture) {
  return parse_model_config(
      R"({"architectures": [")" + architecture +
          R"("], "model_type": "any", "hidden_size": 256, "intermediate_size": 384,
          "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
          "head_dim": 64, "vocab_size": 1000, "hidden_act": "silu", "num_local_experts": 4,
          "num_experts_per_tok": 2, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
          "rope_theta": 10000.0, "torch_dtype": "bfloat16", "eos_token_id": 3, "bos_token_id": 1})",
      "");
}

class GpuEngine : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const cuda::DeviceSurvey survey = cuda::survey_devices();
    ASSERT_EQ(survey.problem, "");
    if (survey.devices.empty()) GTEST_SKIP() << "no NVIDIA GPU is visible";
  }

  /// An engine whose cache holds `kv_tokens`.
  std::unique_ptr<Engine> make_engine(int64_t kv_tokens, int64_t max_num_seqs,
                                      int64_t max_num_batched_tokens, bool capture_graphs = true,
                                      DType dtype = DType::kBF16) {
    EngineConfig config;
    config.capture_graphs = capture_graphs;
    config.dtype = dtype;
    config.max_num_seqs = max_num_seqs;
    config.max_num_batched_tokens = max_num_batched_tokens;
    config.kv_cache_bytes = kv_tokens * model.kv_bytes_per_token(dtype, 1);
    return std::make_unique<Engine>(
        config,
        make_worker_group(
            config, model, *source,
            [](Communicator& comm) { return make_cuda_backend({.comm = &comm}); }, logger_),
        clock_, logger_);
  }

  /// How far a log-probability may be from another run's: both logits of the fraction may move.
  double logprob_bound() {
    SequentialModel runner(model, *source, {});
    std::vector<int32_t> prompt(100);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 7);
    float largest = 0;
    for (const float logit : runner.step({}, {{0, 0, prompt}}))
      largest = std::max(largest, std::abs(logit));
    return 2 * logits_bound(model, DType::kBF16, largest);
  }

  /// Small enough to run under compute-sanitizer, whose checks are what this is for.
  void serve_few_tokens(DType dtype) {
    const std::vector<Request> requests = mixed_requests(4, 20, 10, kVocab);
    for (const bool capture_graphs : {true, false}) {
      const auto engine = make_engine(200, 4, 32, capture_graphs, dtype);
      const auto outputs = run_requests(*engine, requests, requests.size());
      ASSERT_EQ(outputs.size(), requests.size());
      for (const auto& [id, output] : outputs) {
        EXPECT_TRUE(output.finish == FinishReason::kStop || output.finish == FinishReason::kLength)
            << id;
      }
    }
  }

  const ModelConfig model = small_model(GetParam());
  const std::unique_ptr<CheckpointSource> source =
      make_dummy_source(model, {.seed = 11, .matrix_deviation = 0.08, .norm_deviation = 0.1});

 private:
  SteadyClock clock_;
  Logger logger_{LogLevel::kWarning};
};

/// Log-probabilities of one position's token by two runs, and all their statistics.
struct Agreement {
  int64_t positions = 0, outside = 0, equal = 0;
  double worst = 0, sum_of_squares = 0;

  void add(double a, double b, double bound) {
    const double difference = std::abs(a - b);
    ++positions;
    outside += difference <= bound ? 0 : 1;  // NaN is outside
    equal += difference == 0 ? 1 : 0;
    worst = std::max(worst, difference);
    sum_of_squares += difference * difference;
  }
  [[nodiscard]] double rms() const {
    return std::sqrt(sum_of_squares / static_cast<double>(positions));
  }
};

/// Whether the logits alone decide the request's tokens.
bool is_plainly_greedy(const SamplingParams& p) {
  return p.temperature == 0 && p.repetition_penalty == 1 && p.presence_penalty == 0 &&
         p.logit_bias.empty() && p.min_tokens == 0;
}

/// A router's near-tie moves logits by more than rounding does: its requests are only counted.
constexpr double kRouterDecides = INFINITY;

/// Where runs part, both tokens must have been about as likely. Returns 1 for a request that
/// parted.
int64_t check_first_difference(const Request& request, const Output& got, const Output& want,
                               double bound) {
  const auto [g, w] =
      std::mismatch(got.tokens.begin(), got.tokens.end(), want.tokens.begin(), want.tokens.end());
  if (g == got.tokens.end() || w == want.tokens.end()) {
    EXPECT_EQ(got.tokens.size(), want.tokens.size()) << "request " << request.id;
    return 0;
  }
  if (is_plainly_greedy(request.sampling) && bound != kRouterDecides) {
    const float* entry = &want.logprobs[kPerToken * static_cast<size_t>(w - want.tokens.begin())];
    double behind = INFINITY;  // the likeliest token, in the logits of the run alone
    for (size_t i = 2; i < kPerToken; i += 2)
      if (static_cast<int32_t>(entry[i]) == *g) behind = entry[3] - entry[i + 1];
    EXPECT_LT(behind, bound) << "request " << request.id;
  }
  return 1;
}

/// Each request's prompt with the tokens that it got, to be scored.
std::vector<Request> with_outputs(const std::vector<Request>& requests,
                                  const std::map<RequestId, Output>& outputs) {
  std::vector<Request> scored = requests;
  for (Request& request : scored) {
    const Output& output = outputs.at(request.id);
    request.prompt.insert(request.prompt.end(), output.tokens.begin(), output.tokens.end());
    request.sampling = {.max_tokens = 0, .prompt_logprobs = kAlternatives};
  }
  return scored;
}

TEST_P(GpuEngine, TwoThousandRequestsWithPreemptionsEqualEachAlone) {
  std::vector<Request> requests = mixed_requests(2000, 200, 60, kVocab);
  for (Request& request : requests) {
    request.sampling.logprobs = kAlternatives;
    request.sampling.prompt_logprobs = -1;
  }
  std::map<RequestId, Output> together;
  {
    const auto engine = make_engine(4000, 96, 256);  // a request may need 260
    together = run_requests(*engine, requests, 1000);
    engine->drain();
    EXPECT_GT(engine->stats().preemptions, 20);
    EXPECT_EQ(engine->stats().kv_pages_used, 0);
    std::printf("%lld preemptions\n", static_cast<long long>(engine->stats().preemptions));
  }
  const auto engine = make_engine(50000, 96, 256);
  const std::map<RequestId, Output> alone = run_requests(*engine, requests, 1);
  const std::map<RequestId, Output> scores =
      run_requests(*engine, with_outputs(requests, together), 1);
  ASSERT_EQ(together.size(), requests.size());

  const double bound = logprob_bound();
  int64_t near_ties = 0;
  Agreement agreement;
  for (const Request& request : requests) {
    const Output& got = together.at(request.id);
    near_ties += check_first_difference(request, got, alone.at(request.id),
                                        model.is_moe() ? kRouterDecides : bound);
    const Output& score = scores.at(request.id);
    ASSERT_EQ(got.logprobs.size(), kPerToken * got.tokens.size());
    ASSERT_EQ(score.prompt_logprobs.size(),
              kPerToken * (request.prompt.size() - 1 + got.tokens.size()));
    for (size_t i = 0; i < got.tokens.size(); ++i)
      agreement.add(got.logprobs[kPerToken * i],
                    score.prompt_logprobs[kPerToken * (request.prompt.size() - 1 + i)], bound);
  }
  std::printf(
      "%lld positions: %lld near-ties, %lld bits equal, worst %.4f and root mean square %.4f of "
      "bound %.3f, %lld outside\n",
      static_cast<long long>(agreement.positions), static_cast<long long>(near_ties),
      static_cast<long long>(agreement.equal), agreement.worst, agreement.rms(), bound,
      static_cast<long long>(agreement.outside));
  EXPECT_GT(agreement.positions, 40000);
  EXPECT_LE(near_ties, agreement.positions / 100);
  EXPECT_LE(agreement.outside, model.is_moe() ? agreement.positions / 100 : 0);
  EXPECT_LT(agreement.rms(), bound / 4) << "the bound is four deviations wide";
}

TEST_P(GpuEngine, FewTokens) {
  serve_few_tokens(DType::kBF16);
}

// Without cuBLASLt, on whose kernels racecheck fails.
TEST_P(GpuEngine, FewTokensOfFloat32) {
  serve_few_tokens(DType::kF32);
}

INSTANTIATE_TEST_SUITE_P(Families, GpuEngine,
                         ::testing::Values("LlamaForCausalLM", "MixtralForCausalLM"));

}  // namespace
}  // namespace nanoflow
