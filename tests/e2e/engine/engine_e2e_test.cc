// Engine, pipeline, model and CPU backend together: with the reference kernels a request's output
// does not depend, bit for bit, on what else runs, on preemptions, on the spec, or on chunking.
#include <atomic>
#include <map>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "backend/cpu/backend.h"
#include "base/error.h"
#include "engine/engine.h"
#include "engine/step_runner.h"
#include "engine/worker_group.h"
#include "model/config.h"
#include "model/source.h"
#include "run_requests.h"

namespace nanoflow {
namespace {

constexpr int64_t kVocab = 160;

ModelConfig tiny_model(bool moe = false) {
  const std::string common = R"("hidden_size": 64, "intermediate_size": 96,
      "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
      "vocab_size": 160, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
      "rope_theta": 10000.0, "torch_dtype": "float32", "eos_token_id": 3, "bos_token_id": 1,
      "hidden_act": "silu")";
  const std::string json =
      moe ? R"({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
               "num_local_experts": 4, "num_experts_per_tok": 2, )" +
                common + "}"
          : R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", )" + common + "}";
  return parse_model_config(json, "");
}

struct Variant {
  std::string pipeline = "sequential";
  int tp_size = 1;
  DType dtype = DType::kF32;
  bool moe = false;
  int64_t kv_tokens = 4096;
  int64_t max_num_seqs = 16;
  int64_t max_num_batched_tokens = 64;
  bool reference = true;
  bool capture_graphs = true;
  int64_t timed_step_interval = 0;
};

EngineConfig config_of(const Variant& setup, const ModelConfig& model) {
  EngineConfig config;
  config.max_num_batched_tokens = setup.max_num_batched_tokens;
  config.max_num_seqs = setup.max_num_seqs;
  config.dtype = setup.dtype;
  config.tp_size = setup.tp_size;
  config.pipeline = setup.pipeline;
  config.capture_graphs = setup.capture_graphs;
  config.timed_step_interval = setup.timed_step_interval;
  config.kv_cache_bytes = setup.kv_tokens * model.kv_bytes_per_token(setup.dtype, setup.tp_size);
  return config;
}

BackendFactory cpu_factory(bool reference) {
  return [reference](Communicator& communicator) -> std::unique_ptr<Backend> {
    CpuBackendOptions options;
    options.threads = 1;
    options.comm = &communicator;
    options.reference_kernels = reference;
    options.page_size = 4;
    return std::make_unique<CpuBackend>(options);
  };
}

/// An engine on a tiny model with made-up weights.
class TinyEngine {
 public:
  explicit TinyEngine(const Variant& setup, const StepRecordSink& records = {})
      : model_(tiny_model(setup.moe)) {
    DummyOptions weights;
    weights.seed = 11;
    weights.matrix_deviation = 0.15;
    weights.norm_deviation = 0.1;
    const auto source = make_dummy_source(model_, weights);
    const EngineConfig config = config_of(setup, model_);
    engine_ = std::make_unique<Engine>(
        config,
        make_worker_group(config, model_, *source, cpu_factory(setup.reference), logger_, {},
                          records),
        clock_, logger_);
  }

  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }

 private:
  ModelConfig model_;
  SteadyClock clock_;
  Logger logger_{LogLevel::kWarning};
  std::unique_ptr<Engine> engine_;
};

std::map<RequestId, Output> run_each_alone(const Variant& setup,
                                           const std::vector<Request>& requests) {
  TinyEngine engine(setup);
  return run_requests(*engine, requests, 1);
}

void expect_equal(const std::map<RequestId, Output>& got, const std::map<RequestId, Output>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [id, output] : want) {
    ASSERT_EQ(got.at(id).tokens, output.tokens) << "request " << id;
    ASSERT_TRUE(got.at(id) == output) << "request " << id;
  }
}

class EngineE2e : public ::testing::TestWithParam<Variant> {};

TEST_P(EngineE2e, MixedRequestsWithPreemptionsEqualEachAlone) {
  const std::vector<Request> requests = mixed_requests(50, 40, 30, kVocab);
  const Variant& base = GetParam();
  Variant alone = base;
  alone.pipeline = "sequential";
  alone.capture_graphs = false;  // so replayed graphs equal operations issued one by one
  const auto want = run_each_alone(alone, requests);

  Variant tight = base;
  tight.kv_tokens = 180;  // of which one request may need 70
  TinyEngine engine(tight);
  const auto got = run_requests(*engine, requests, requests.size());
  expect_equal(got, want);
  engine->drain();
  EXPECT_GT(engine->stats().preemptions, 0);
  EXPECT_EQ(engine->stats().kv_pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(Setups, EngineE2e,
                         ::testing::Values(Variant{}, Variant{.pipeline = "nanobatch2"},
                                           Variant{.pipeline = "overlap2"},
                                           Variant{.dtype = DType::kBF16},
                                           Variant{.pipeline = "overlap3", .tp_size = 2},
                                           Variant{.moe = true}),
                         [](const auto& param) {
                           const Variant& s = param.param;
                           return s.pipeline + "_tp" + std::to_string(s.tp_size) + "_" +
                                  std::string(dtype_name(s.dtype)) + (s.moe ? "_moe" : "");
                         });

/// Everything that one timed step's ops must obey.
void check_ops(const StepRecord& step) {
  std::map<LaneId, int64_t> lane_end;
  std::map<std::pair<std::string, int>, int64_t> rows;
  for (const OpRecord& op : step.ops) {
    EXPECT_LE(op.begin_ns, op.end_ns) << op.name;
    EXPECT_GE(op.begin_ns, step.begin_ns) << op.name;
    EXPECT_LE(op.end_ns, step.end_ns) << op.name;
    EXPECT_GE(op.begin_ns, lane_end[op.lane]) << op.name << ": a lane runs one op at a time";
    lane_end[op.lane] = op.end_ns;
    rows[{op.name, op.layer}] += op.rows.size();
    if (op.kind == TimeKind::kGemm && op.layer >= 0) {
      EXPECT_EQ(op.flops > 0, step.num_rows > op.rows.begin) << op.name << ": padding is no work";
    }
    if (op.kind == TimeKind::kAttentionDecode) {
      EXPECT_EQ(op.bytes > 0, step.num_decode_rows > op.rows.begin);
    }
  }
  for (const std::string name : {"qkv", "attn_decode", "attn_prefill", "o"})
    for (int layer = 0; layer < 3; ++layer)
      EXPECT_EQ((rows[{name, layer}]), step.bucket) << name << " of layer " << layer;
}

class EngineE2eTiming : public ::testing::TestWithParam<Variant> {};

TEST_P(EngineE2eTiming, RecordsAreCompleteAndOrderedAndChangeNothing) {
  const std::vector<Request> requests = mixed_requests(30, 40, 30, kVocab);
  Variant plain = GetParam();
  plain.timed_step_interval = 0;
  const auto want = run_each_alone(plain, requests);
  std::vector<StepRecord> records;
  BusyTimes busy;
  int64_t steps = 0;
  {
    TinyEngine engine(GetParam(), [&](const StepRecord& record) {
      records.push_back(record);
      busy.add(record);
    });
    expect_equal(run_requests(*engine, requests, requests.size()), want);
    engine->drain();
    steps = engine->stats().steps;
  }
  ASSERT_EQ(static_cast<int64_t>(records.size()), steps);
  int64_t timed = 0, step_ns = 0, gemm_ns = 0, all_op_ns = 0, end_ns = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    const StepRecord& step = records[i];
    EXPECT_EQ(step.index, static_cast<int64_t>(i));
    EXPECT_GE(step.begin_ns, end_ns);
    EXPECT_TRUE(step.idle_ns == 0 || step.idle_ns == step.begin_ns - end_ns) << i;
    end_ns = step.end_ns;
    step_ns += step.ns();
    if (step.ops.empty()) continue;
    ++timed;
    EXPECT_TRUE(i == 0 || records[i - 1].ops.empty()) << "stamps serve one step at a time";
    check_ops(step);
    for (const OpRecord& op : step.ops) {
      all_op_ns += op.ns();
      if (op.kind == TimeKind::kGemm) gemm_ns += op.ns();
    }
  }
  const BusySnapshot sums = busy.snapshot();
  EXPECT_EQ(sums.steps, steps);
  EXPECT_EQ(sums.step_ns, step_ns);
  EXPECT_EQ(sums.timed_steps, timed);
  EXPECT_EQ(sums.kind(TimeKind::kGemm).ns, gemm_ns);
  EXPECT_LE(sums.any_ns, sums.timed_ns);
  if (GetParam().pipeline == "sequential") {
    EXPECT_EQ(sums.any_ns, all_op_ns);
    EXPECT_EQ(sums.overlap_ns, 0);
  }
  const int64_t interval = GetParam().timed_step_interval;
  EXPECT_GE(timed, steps / std::max<int64_t>(2, interval) - 1);
  EXPECT_LE(timed, steps / std::max<int64_t>(2, interval) + 1);
}

INSTANTIATE_TEST_SUITE_P(
    Setups, EngineE2eTiming,
    ::testing::Values(Variant{.timed_step_interval = 1}, Variant{.timed_step_interval = 3},
                      Variant{.capture_graphs = false, .timed_step_interval = 2},
                      Variant{.pipeline = "overlap2", .timed_step_interval = 1},
                      Variant{.pipeline = "overlap3", .tp_size = 2, .timed_step_interval = 4}),
    [](const auto& param) {
      const Variant& s = param.param;
      return s.pipeline + "_tp" + std::to_string(s.tp_size) + "_every" +
             std::to_string(s.timed_step_interval) + (s.capture_graphs ? "" : "_eager");
    });

// The same request in chunks of any size, and with its prompt scored in several runs of the sample
// graph, gives the same numbers.
TEST(EngineE2eScoring, PromptLogprobsDoNotDependOnChunks) {
  std::vector<Request> requests = mixed_requests(6, 120, 3, kVocab);
  for (Request& request : requests) {
    request.sampling.prompt_logprobs = 5;
    request.sampling.temperature = 0;
  }
  requests[0].sampling.max_tokens = 0;
  requests[0].sampling.min_tokens = 0;
  const auto want = run_each_alone({.max_num_batched_tokens = 256}, requests);
  for (const int64_t budget : {16, 37, 200}) {
    TinyEngine engine({.max_num_seqs = 8, .max_num_batched_tokens = budget});
    const auto got = run_requests(*engine, requests, requests.size());
    expect_equal(got, want);
    for (const Request& request : requests) {
      // logprob, rank, 5 * (token, logprob) per scored token
      EXPECT_EQ(got.at(request.id).prompt_logprobs.size(), (request.prompt.size() - 1) * 12);
    }
  }
}

// A generated token's logprob is the one that scoring the whole text gives.
TEST(EngineE2eScoring, ScoringTheOutputGivesItsLogprobs) {
  TinyEngine engine(Variant{});
  Request request = mixed_requests(1, 20, 1, kVocab)[0];
  request.sampling = {.max_tokens = 12, .temperature = 0, .logprobs = 0, .ignore_eos = true};
  const Output first = run_requests(*engine, {request}, 1).begin()->second;
  ASSERT_EQ(first.tokens.size(), 12u);
  Request scored = request;
  scored.prompt.insert(scored.prompt.end(), first.tokens.begin(), first.tokens.end());
  scored.sampling = {.max_tokens = 0, .prompt_logprobs = 0};
  const Output second = run_requests(*engine, {scored}, 1).begin()->second;
  const std::vector<float> tail(second.prompt_logprobs.end() - 24, second.prompt_logprobs.end());
  EXPECT_EQ(tail, first.logprobs);
}

TEST(EngineE2eFast, FastKernelsServeEverything) {
  const std::vector<Request> requests = mixed_requests(30, 40, 20, kVocab);
  TinyEngine engine({.kv_tokens = 200, .reference = false});
  const auto got = run_requests(*engine, requests, requests.size());
  for (const Request& request : requests) {
    const Output& output = got.at(request.id);
    ASSERT_TRUE(output.finish.has_value());
    EXPECT_LE(static_cast<int64_t>(output.tokens.size()), *request.sampling.max_tokens);
  }
}

std::string start_failure(const EngineConfig& config, const BackendFactory& factory) {
  const ModelConfig model = tiny_model();
  const auto source = make_dummy_source(model);
  Logger logger(LogLevel::kOff);
  SteadyClock clock;
  try {
    Engine engine(config, make_worker_group(config, model, *source, factory, logger), clock,
                  logger);
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "started";
}

TEST(EngineE2eStart, FailuresSayWhatToChange) {
  const EngineConfig good = config_of({}, tiny_model());
  EXPECT_EQ(start_failure(good, cpu_factory(true)), "started");
  const auto expect = [&](auto change, const char* text) {
    EngineConfig config = good;
    change(config);
    const std::string message = start_failure(config, cpu_factory(true));
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  expect([](auto& c) { c.kv_cache_bytes = 10; }, "--kv-cache-gib");
  expect([](auto& c) { c.kv_cache_bytes = int64_t{1} << 60, c.max_num_seqs = 64; }, "started");
  expect([](auto& c) { c.max_model_len = 257; }, "--max-model-len");
  expect([](auto& c) { c.pipeline = "no such spec"; }, "no such spec");
  expect([](auto& c) { c.tp_size = 3; }, "tp_size");
  expect([](auto& c) { c.warm_up = false; }, "started");
}

TEST(EngineE2eStart, AProgressCallbackThatThrowsStopsTheLoadingOfAllRanks) {
  const ModelConfig model = tiny_model();
  EngineConfig config = config_of({}, model);
  config.tp_size = 2;
  const auto source = make_dummy_source(model);
  Logger logger(LogLevel::kOff);
  int calls = 0;
  const auto stop = [&](int64_t done, int64_t total) {
    ++calls;
    EXPECT_LT(done, total);
    throw EnvironmentError("stopped");
  };
  try {
    (void)make_worker_group(config, model, *source, cpu_factory(true), logger, stop);
    FAIL() << "loaded";
  } catch (const EnvironmentError& e) {
    EXPECT_STREQ(e.what(), "stopped");
  }
  EXPECT_EQ(calls, 1);
}

// One rank fails to start, or fails while it runs: nobody hangs.
TEST(EngineE2eStart, AFailingRankStopsTheOthers) {
  EngineConfig config = config_of({.tp_size = 2}, tiny_model());
  const BackendFactory working = cpu_factory(true);
  const std::string message = start_failure(config, [&](Communicator& communicator) {
    if (communicator.rank() == 1) throw OutOfMemory("rank 1 has no memory");
    return working(communicator);
  });
  EXPECT_EQ(message, "rank 1 has no memory");
}

TEST(EngineE2eStart, AGroupThatIsAbortedFailsItsRequests) {
  const Variant setup{.tp_size = 2};
  const ModelConfig model = tiny_model();
  const auto source = make_dummy_source(model);
  const EngineConfig config = config_of(setup, model);
  Logger logger(LogLevel::kOff);
  SteadyClock clock;
  std::atomic<Communicator*> group{nullptr};
  const BackendFactory working = cpu_factory(true);
  const auto factory = [&](Communicator& communicator) {
    group = &communicator;
    return working(communicator);
  };
  Engine engine(config, make_worker_group(config, model, *source, factory, logger), clock, logger);
  Request request = mixed_requests(1, 20, 1, kVocab)[0];
  request.sampling = {.max_tokens = 200, .ignore_eos = true};
  const auto handle = engine.submit(request);
  ASSERT_TRUE(handle.has_value());
  ASSERT_TRUE(handle->events->pop(std::chrono::seconds(20)).has_value());
  group.load()->abort();
  std::optional<TokenEvent> event;
  do {
    event = handle->events->pop(std::chrono::seconds(20));
    ASSERT_TRUE(event.has_value()) << "hangs";
  } while (!event->finish);
  EXPECT_EQ(event->finish, FinishReason::kError);
  EXPECT_FALSE(engine.healthy());
}

}  // namespace
}  // namespace nanoflow
