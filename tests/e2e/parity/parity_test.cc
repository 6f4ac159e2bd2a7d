// Every model family against transformers' logits, at every position, on the CPU backend: prompts
// whole, in chunks, token by token, mixed in one batch, padded, cut into nano-batches, on two
// ranks.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "parity/golden.h"
#include "parity/sequential_model.h"
#include "pipeline/builtin_specs.h"

namespace nanoflow {
namespace {

/// The folder's checkpoint files if it has some, else generated weights.
struct Loaded {
  explicit Loaded(const std::string& name)
      : config(read_model_config(model_path(name))),
        golden(read_golden_model(name, config.vocab_size)),
        source(has_weights(name) ? open_checkpoint(model_path(name), config)
                                 : make_dummy_source(config, golden.weights)) {}

  static std::filesystem::path model_path(const std::string& name) {
    const std::filesystem::path gguf = golden_folder(name) / "model.gguf";
    return std::filesystem::exists(gguf) ? gguf : golden_folder(name);
  }
  static bool has_weights(const std::string& name) {
    return std::filesystem::exists(golden_folder(name) / "model.gguf") ||
           std::filesystem::exists(golden_folder(name) / "model.safetensors") ||
           std::filesystem::exists(golden_folder(name) / "model.safetensors.index.json");
  }

  ModelConfig config;
  GoldenModel golden;
  std::unique_ptr<CheckpointSource> source;
};

void expect_equal_within_bound(const ModelConfig& config, DType act, const std::vector<float>& got,
                               const std::vector<float>& want) {
  const LogitsComparison result = compare_logits(config, act, got, want);
  EXPECT_EQ(result.rows_out_of_bound, 0) << result.first_failure;
  EXPECT_EQ(result.argmax_differs, 0);
  testing::Test::RecordProperty("worst_ratio", std::to_string(result.worst_ratio));
  testing::Test::RecordProperty("near_ties", std::to_string(result.near_ties));
  // Tiny random models have small margins; in float32 their ties must still be rare.
  if (act == DType::kF32) {
    EXPECT_LE(result.near_ties, 1 + result.rows / 100);
  }
}

class FamilyParity : public testing::TestWithParam<std::string> {
 protected:
  Loaded model{GetParam()};

  std::vector<float> run_whole(SequentialModel& runner, size_t prompt) {
    return runner.step({}, {{static_cast<int>(prompt), 0, model.golden.prompts[prompt]}});
  }
};

TEST_P(FamilyParity, WholePrompts) {
  SequentialModel runner(model.config, *model.source, {});
  for (size_t i = 0; i < model.golden.prompts.size(); ++i)
    expect_equal_within_bound(model.config, DType::kF32, run_whole(runner, i),
                              model.golden.logits[i]);
}

TEST_P(FamilyParity, FastKernels) {
  SequentialModel runner(model.config, *model.source, {.reference_kernels = false});
  for (size_t i = 0; i < model.golden.prompts.size(); ++i)
    expect_equal_within_bound(model.config, DType::kF32, run_whole(runner, i),
                              model.golden.logits[i]);
}

// The reference kernels' rows do not depend on the batch, so everything below is bit for bit.
TEST_P(FamilyParity, ChunksAndDecodesInMixedBatchesEqualWholePrompts) {
  SequentialModel whole(model.config, *model.source, {});
  const std::vector<float> want_a = run_whole(whole, 3);
  const std::vector<float> want_b = run_whole(whole, 2);
  const std::vector<int32_t>& a = model.golden.prompts[3];
  const std::vector<int32_t>& b = model.golden.prompts[2];
  SequentialModel runner(model.config, *model.source, {.padding = 3});
  const auto part = [](int seq, const std::vector<int32_t>& ids, int64_t begin, int64_t end) {
    return ModelChunk{seq, static_cast<int32_t>(begin), {ids.begin() + begin, ids.begin() + end}};
  };
  std::vector<float> got_a, got_b;
  const auto keep = [&](const std::vector<float>& logits, int64_t rows_b) {
    const auto split = logits.begin() + rows_b * model.config.vocab_size;
    got_b.insert(got_b.end(), logits.begin(), split);
    got_a.insert(got_a.end(), split, logits.end());
  };
  // b's first 4 tokens; then b decodes while a is prefilled in chunks of 5.
  keep(runner.step({}, {part(1, b, 0, 4)}), 4);
  for (int64_t i = 0; i < static_cast<int64_t>(a.size()); i += 5) {
    const int64_t end = std::min<int64_t>(i + 5, static_cast<int64_t>(a.size()));
    const int64_t at = 4 + i / 5;
    keep(runner.step({part(1, b, at, at + 1)}, {part(0, a, i, end)}), 1);
  }
  EXPECT_EQ(got_a, want_a);
  EXPECT_EQ(got_b, std::vector<float>(want_b.begin(),
                                      want_b.begin() + static_cast<int64_t>(got_b.size())));
}

TEST_P(FamilyParity, NanoBatchesEqualWholeBatches) {
  const std::vector<ModelChunk> prefills = {{0, 0, model.golden.prompts[3]},
                                            {1, 0, model.golden.prompts[2]}};
  SequentialModel whole(model.config, *model.source, {});
  SequentialModel cut(model.config, *model.source, {.cuts = {1, 20, 38}});
  EXPECT_EQ(cut.step({}, prefills), whole.step({}, prefills));
}

// A mixed step: one sequence decodes while two others are prefilled, with padding rows behind.
std::vector<float> mixed_step(const Loaded& model, SequentialOptions options) {
  options.padding = 5;
  SequentialModel runner(model.config, *model.source, options);
  const std::vector<int32_t>& a = model.golden.prompts[2];
  const auto part = [&](size_t begin, size_t end) {
    return std::vector<int32_t>(a.begin() + static_cast<int64_t>(begin),
                                a.begin() + static_cast<int64_t>(end));
  };
  (void)runner.step({}, {{2, 0, part(0, 4)}});
  return runner.step({{2, 4, part(4, 5)}},
                     {{0, 0, model.golden.prompts[3]}, {1, 0, model.golden.prompts[2]}});
}

TEST_P(FamilyParity, EveryPipelineEqualsTheSequentialWalk) {
  const std::vector<float> want = mixed_step(model, {});
  for (const std::string& pipeline : builtin_spec_names())
    EXPECT_EQ(mixed_step(model, {.pipeline = pipeline}), want) << pipeline;
}

TEST_P(FamilyParity, EveryPipelineEqualsTheSequentialWalkOnSeveralRanks) {
  for (const int tp : {2, 4}) {
    if (model.config.num_attention_heads % tp != 0 || model.config.intermediate_size % tp != 0)
      continue;
    const auto run = [&](const std::string& pipeline) {
      const auto group = make_in_process_group(tp);
      std::vector<std::vector<float>> logits(static_cast<size_t>(tp));
      {
        std::vector<std::jthread> ranks;
        for (int rank = 0; rank < tp; ++rank)
          ranks.emplace_back([&, rank] {
            logits[static_cast<size_t>(rank)] =
                mixed_step(model, {.tp_rank = rank,
                                   .tp_size = tp,
                                   .comm = group[static_cast<size_t>(rank)].get(),
                                   .pipeline = pipeline});
          });
      }
      for (const std::vector<float>& other : logits) EXPECT_EQ(other, logits.front()) << pipeline;
      return logits.front();
    };
    const std::vector<float> want = run("");
    for (const std::string& pipeline : builtin_spec_names())
      EXPECT_EQ(run(pipeline), want) << pipeline << ", tp " << tp;
  }
}

TEST_P(FamilyParity, TwoRanksEqualOneWithinBound) {
  if (model.config.num_attention_heads % 2 != 0) GTEST_SKIP() << "heads do not divide";
  const auto group = make_in_process_group(2);
  std::vector<float> got[2];
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < 2; ++rank)
      ranks.emplace_back([&, rank] {
        SequentialModel runner(
            model.config, *model.source,
            {.tp_rank = rank, .tp_size = 2, .comm = group[static_cast<size_t>(rank)].get()});
        got[rank] = run_whole(runner, 3);
      });
  }
  EXPECT_EQ(got[0], got[1]);
  expect_equal_within_bound(model.config, DType::kF32, got[0], model.golden.logits[3]);
}

TEST_P(FamilyParity, SixteenBitActivations) {
  // A chosen expert that changes with rounding changes logits by more than rounding does.
  if (model.config.is_moe()) GTEST_SKIP() << "routing is discontinuous";
  for (const DType act : {DType::kBF16, DType::kF16}) {
    SequentialModel runner(model.config, *model.source, {.act = act});
    expect_equal_within_bound(model.config, act, run_whole(runner, 3), model.golden.logits[3]);
  }
}

// The same goldens on the GPU. Rows' bits depend on the batch there, so everything is held to the
// bound. In float32 the plain kernels compute the products, in 16 bits the tuned ones.
TEST_P(FamilyParity, OnTheGpu) {
  const char* device = std::getenv("NANOFLOW_TEST_DEVICE");
  if (device == nullptr || std::string(device) != "cuda")
    GTEST_SKIP() << "NANOFLOW_TEST_DEVICE is not cuda";
  for (const DType act : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (act != DType::kF32 && model.config.is_moe()) continue;  // routing is discontinuous
    const SequentialOptions options{.act = act, .cuda = true};
    SequentialModel runner(model.config, *model.source, options);
    for (size_t i = 0; i < model.golden.prompts.size(); ++i)
      expect_equal_within_bound(model.config, act, run_whole(runner, i), model.golden.logits[i]);
    std::vector<float> want = mixed_step(model, {.act = act});
    for (const std::string& pipeline : builtin_spec_names()) {
      SequentialOptions piped = options;
      piped.pipeline = pipeline;
      expect_equal_within_bound(model.config, act, mixed_step(model, piped), want);
    }
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}

INSTANTIATE_TEST_SUITE_P(Dummy, FamilyParity,
                         testing::Values("llama_tied_d64", "llama_mha_d80", "llama3_gqa4_d128",
                                         "llama3_gqa8_d64", "llama_linear_bias", "mistral_window",
                                         "mistral_full_d128", "qwen2_tied", "qwen2_window",
                                         "qwen2_window_types", "qwen3_tied_d128", "qwen3_bias_d64",
                                         "mixtral_e4", "mixtral_e8_window"),
                         test_name);

INSTANTIATE_TEST_SUITE_P(Files, FamilyParity,
                         testing::Values("file_llama_f32", "file_qwen2_f16_sharded",
                                         "file_mixtral_bf16_sharded", "gguf_llama3", "gguf_mixtral",
                                         "gguf_qwen3"),
                         test_name);

/// A small mistake in one number of the configuration.
struct Mistake {
  const char* what;
  const char* model;
  void (*make)(ModelConfig& config);
};

// Goldens are only worth something if a slightly wrong model fails them.
TEST(Goldens, NoticeSmallMistakes) {
  const Mistake mistakes[] = {
      {"window too long", "mistral_window", [](ModelConfig& c) { c.sliding_window += 1; }},
      {"window too short", "mixtral_e8_window", [](ModelConfig& c) { c.sliding_window -= 1; }},
      {"wrong sliding layer", "qwen2_window",
       [](ModelConfig& c) {
         c.layer_slides = {true, true, true};
       }},
      {"no sliding layer", "qwen2_window_types", [](ModelConfig& c) { c.sliding_window = 0; }},
      {"rope scaling ignored", "llama3_gqa4_d128", [](ModelConfig& c) { c.rope_scaling = {}; }},
      {"rope band ignored", "llama3_gqa8_d64",
       [](ModelConfig& c) { c.rope_scaling.high_freq_factor = 1.001; }},
      {"linear factor", "llama_linear_bias", [](ModelConfig& c) { c.rope_scaling.factor = 4.1; }},
      {"rope theta", "mistral_full_d128", [](ModelConfig& c) { c.rope_theta *= 1.01; }},
      {"norm epsilon", "llama_tied_d64", [](ModelConfig& c) { c.rms_norm_eps *= 10; }},
      {"biases ignored", "qwen2_tied", [](ModelConfig& c) { c.qkv_bias = false; }},
      {"bias of o ignored", "qwen3_bias_d64", [](ModelConfig& c) { c.o_bias = false; }},
      {"norms of q and k ignored", "qwen3_tied_d128", [](ModelConfig& c) { c.qk_norm = false; }},
      {"not renormalised", "mixtral_e4", [](ModelConfig& c) { c.norm_topk_prob = false; }},
      {"one expert too few", "mixtral_e8_window",
       [](ModelConfig& c) { c.num_experts_per_tok -= 1; }},
  };
  for (const Mistake& mistake : mistakes) {
    const Loaded model(mistake.model);
    ModelConfig wrong = model.config;
    mistake.make(wrong);
    SequentialModel runner(wrong, *model.source, {});
    const std::vector<float> got = runner.step({}, {{0, 0, model.golden.prompts[3]}});
    const LogitsComparison result =
        compare_logits(model.config, DType::kF32, got, model.golden.logits[3]);
    EXPECT_GT(result.rows_out_of_bound, 0)
        << mistake.what << " in " << mistake.model << ": " << result.worst_ratio;
  }
}

// The comparison itself must notice what it is there for.
TEST(CompareLogits, PlantedErrorsOfBothSignsAreFound) {
  const Loaded model("llama_tied_d64");
  const std::vector<float>& want = model.golden.logits[3];
  EXPECT_EQ(compare_logits(model.config, DType::kF32, want, want).rows_out_of_bound, 0);
  for (const double sign : {-1.0, 1.0}) {
    for (const double size : {0.5, 1.5}) {
      std::vector<float> got = want;
      const auto vocab = static_cast<size_t>(model.config.vocab_size);
      const size_t row = got.size() / vocab - 1;
      double largest = 0;
      for (size_t i = row * vocab; i < got.size(); ++i)
        largest = std::max(largest, std::abs(double{want[i]}));
      const double bound = logits_bound(model.config, DType::kF32, largest);
      got.back() += static_cast<float>(sign * size * bound);
      const LogitsComparison result = compare_logits(model.config, DType::kF32, got, want);
      EXPECT_EQ(result.rows_out_of_bound, size > 1 ? 1 : 0);
      EXPECT_NEAR(result.worst_ratio, size, 0.1);
    }
  }
  std::vector<float> nan = want;
  nan[0] = NAN;
  EXPECT_EQ(compare_logits(model.config, DType::kF32, nan, want).rows_out_of_bound, 1);
}

TEST(CompareLogits, AWrongArgmaxIsFoundAndATieIsCounted) {
  ModelConfig config = Loaded("llama_tied_d64").config;
  config.vocab_size = 3;
  const LogitsComparison wrong = compare_logits(config, DType::kF32, {1, 2, 0}, {2, 1, 0});
  EXPECT_EQ(wrong.argmax_differs, 1);
  const LogitsComparison tie =
      compare_logits(config, DType::kF32, {1, 1.00001F, 0}, {1.00001F, 1, 0});
  EXPECT_EQ(tie.argmax_differs, 0);
  EXPECT_EQ(tie.near_ties, 1);
}

}  // namespace
}  // namespace nanoflow
