// What loaders accept, refuse by name, and the rules for special tokens.
#include "text/tokenizer_loader.h"

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/test_folder.h"
#include "formats/gguf.h"
#include "text/tokenizer_test_support.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr EncodeOptions kPlain{.add_special_tokens = false, .parse_special = false};

/// A folder with a copy of a tiny fixture, to be spoilt.
class LoaderTest : public testing::Test {
 protected:
  void SetUp() override {
    json_ = test::read_json(test::tokenizer_fixtures() / "tiny_byte_level" / "tokenizer.json");
  }

  Tokenizer load() {
    write("tokenizer.json", json_.dump());
    return load_tokenizer(dir_);
  }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(dir_ / name) << content;
  }
  static Json parse(const std::string& text) { return *parse_json(text); }

  const TestFolder folder_;
  const fs::path dir_ = folder_.path();
  Json json_;
};

TEST_F(LoaderTest, EmptyFolderNamesBothFiles) {
  EXPECT_THAT([&] { (void)load_tokenizer(dir_); },
              ThrowsMessage<IoError>(HasSubstr("tokenizer.model")));
}

TEST_F(LoaderTest, UnsupportedPartsAreNamed) {
  const std::vector<std::pair<std::string, std::string>> parts = {
      {"normalizer", R"({"type": "BertNormalizer"})"},
      {"pre_tokenizer", R"({"type": "Whitespace"})"},
      {"post_processor", R"({"type": "BertProcessing"})"},
      {"decoder", R"({"type": "WordPiece"})"},
      {"pre_tokenizer",
       R"({"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})"},
  };
  const Json good = json_;
  for (const auto& [field, value] : parts) {
    json_ = good;
    json_.set(field, parse(value));
    EXPECT_THROW((void)load(), ConfigError) << field << value;
  }
  json_ = good;
  json_.set("decoder", nullptr);
  EXPECT_THROW((void)load(), ConfigError);
}

TEST_F(LoaderTest, MalformedPartsAreFormatErrors) {
  const Json good = json_;
  for (const char* value : {R"({"type": 1})", R"({})", R"({"type": "Sequence"})",
                            R"({"type": "Split", "behavior": "Isolated"})"}) {
    json_ = good;
    json_.set("pre_tokenizer", parse(value));
    EXPECT_THROW((void)load(), FormatError) << value;
  }
  json_ = good;
  Json* model = nullptr;
  for (auto& [key, value] : json_.as_object()) {
    if (key == "model") model = &value;
  }
  model->set("merges", parse(R"([["a", "nowhere"]])"));
  EXPECT_THAT([&] { (void)load(); }, ThrowsMessage<FormatError>(HasSubstr("nowhere")));
}

TEST_F(LoaderTest, AddedTokenFarAboveTheVocabularyIsRefused) {
  json_.set("added_tokens", parse(R"([{"id": 2000000000, "content": "<x>", "special": true}])"));
  EXPECT_THROW((void)load(), FormatError);
}

TEST_F(LoaderTest, ConfigDecidesBosAndEos) {
  write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  EXPECT_TRUE(load().add_bos());
  EXPECT_TRUE(load().add_eos());
  write(
      "tokenizer_config.json",
      R"({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true, "add_eos_token": false})");
  const Tokenizer tokenizer = load();
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_FALSE(tokenizer.add_eos());
  EXPECT_EQ(tokenizer.prefix_ids().size(), 1u) << "not twice";
  EXPECT_EQ(tokenizer.encode("a")->front(), tokenizer.bos_id());
  write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false})");
  EXPECT_FALSE(load().add_bos());
  write("tokenizer_config.json", R"({"add_bos_token": "yes"})");
  EXPECT_THROW((void)load(), FormatError);
}

TEST_F(LoaderTest, ConfigAddsTokens) {
  write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"600": {"content": "<|new|>", "special": true}}})");
  const Tokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.vocab_size(), 601);
  EXPECT_EQ(*tokenizer.encode("<|new|>", {.add_special_tokens = false, .parse_special = true}),
            std::vector<int32_t>{600});
  EXPECT_NE(*tokenizer.encode("<|new|>", kPlain), std::vector<int32_t>{600});
  EXPECT_EQ(tokenizer.token_text(590), "");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<|new|>"}}})");
  EXPECT_THROW((void)load(), FormatError);
}

// Some published merges build "</s>" out of its letters.
TEST_F(LoaderTest, MergesCannotBuildSpecialTokens) {
  Json model = parse(R"({"type": "BPE", "ignore_merges": true, "vocab":
      {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}, "merges": [["<", "s"], ["<s", ">"]]})");
  json_.set("model", model);
  json_.set("pre_tokenizer",
            parse(R"({"type": "ByteLevel", "use_regex": false, "add_prefix_space": false})"));
  json_.set("post_processor", nullptr);
  json_.set("added_tokens",
            parse(R"([{"id": 4, "content": "<s>", "special": true, "normalized": false}])"));
  const Tokenizer tokenizer = load();
  EXPECT_EQ(*tokenizer.encode("<s>", kPlain), (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(*tokenizer.encode("<s>", {.parse_special = true}), std::vector<int32_t>{4});
}

TEST_F(LoaderTest, SentencePieceUnigramIsRefusedByName) {
  SentencePieceModel model;
  EXPECT_THAT([&] { (void)build_from_sentencepiece(model, {}, "x.model"); },
              ThrowsMessage<ConfigError>(HasSubstr("Unigram")));
  model.model_type = SentencePieceModel::ModelType::kBpe;
  model.has_precompiled_charsmap = true;
  model.normalizer_name = "nmt_nfkc";
  EXPECT_THAT([&] { (void)build_from_sentencepiece(model, {}, "x.model"); },
              ThrowsMessage<ConfigError>(HasSubstr("nmt_nfkc")));
}

/// Just enough of a GGUF file: metadata of strings, string arrays and integer arrays.
class GgufBytes {
 public:
  void add(const std::string& key, const std::string& value) {
    head(key, 8);
    put(value);
  }
  void add(const std::string& key, const std::vector<std::string>& values) {
    array(key, 8, values.size());
    for (const std::string& value : values) put(value);
  }
  void add(const std::string& key, const std::vector<int32_t>& values) {
    array(key, 5, values.size());
    for (const int32_t value : values) raw(value);
  }
  void add(const std::string& key, const std::vector<float>& values) {
    array(key, 6, values.size());
    for (const float value : values) raw(value);
  }
  [[nodiscard]] std::string file() const {
    GgufBytes header;
    header.body_ = "GGUF";
    header.raw(uint32_t{3});
    header.raw(uint64_t{0});
    header.raw(count_);
    return header.body_ + body_;
  }

 private:
  template <typename T>
  void raw(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    body_.append(bytes, sizeof(T));
  }
  void put(const std::string& text) {
    raw(static_cast<uint64_t>(text.size()));
    body_ += text;
  }
  void head(const std::string& key, uint32_t type) {
    put(key);
    raw(type);
    ++count_;
  }
  void array(const std::string& key, uint32_t type, size_t size) {
    head(key, 9);
    raw(type);
    raw(static_cast<uint64_t>(size));
  }

  std::string body_;
  uint64_t count_ = 0;
};

Tokenizer from_gguf(const GgufBytes& gguf) {
  const std::string bytes = gguf.file();
  const GgufFile file(std::as_bytes(std::span(bytes.data(), bytes.size())), "tiny.gguf");
  return tokenizer_from_gguf(file);
}

GgufBytes gpt2(const std::string& pre) {
  GgufBytes gguf;
  gguf.add("tokenizer.ggml.model", "gpt2");
  gguf.add("tokenizer.ggml.pre", pre);
  gguf.add("tokenizer.ggml.tokens", std::vector<std::string>{"a", "1", "aa", "<|x|>", "11"});
  gguf.add("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3, 1});
  gguf.add("tokenizer.ggml.merges", std::vector<std::string>{"a a", "1 1"});
  return gguf;
}

TEST(GgufTokenizer, PreTokeniserNames) {
  EXPECT_EQ(*from_gguf(gpt2("gpt-2")).encode("aa11"), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(*from_gguf(gpt2("default")).encode("aa11"), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(*from_gguf(gpt2("llama-bpe")).encode("aa11"), (std::vector<int32_t>{2, 4}));
  EXPECT_EQ(*from_gguf(gpt2("smollm")).encode("aa11"), (std::vector<int32_t>{2, 1, 1}));
  EXPECT_EQ(*from_gguf(gpt2("qwen2")).encode("aa11"), (std::vector<int32_t>{2, 1, 1}));
  EXPECT_TRUE(from_gguf(gpt2("qwen2")).is_special(3));
  EXPECT_THAT([] { (void)from_gguf(gpt2("martian")); },
              ThrowsMessage<ConfigError>(HasSubstr("'martian'")));
}

TEST(GgufTokenizer, DamagedKeysAreNamed) {
  GgufBytes types = gpt2("gpt-2");
  EXPECT_THROW((void)from_gguf(GgufBytes()), FormatError);
  GgufBytes model;
  model.add("tokenizer.ggml.model", "rwkv");
  EXPECT_THAT([&] { (void)from_gguf(model); }, ThrowsMessage<ConfigError>(HasSubstr("'rwkv'")));
  GgufBytes merge;
  merge.add("tokenizer.ggml.model", "gpt2");
  merge.add("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  merge.add("tokenizer.ggml.merges", std::vector<std::string>{"aa"});
  EXPECT_THROW((void)from_gguf(merge), FormatError);
}

TEST(GgufTokenizer, SentencePieceByScores) {
  GgufBytes gguf;
  gguf.add("tokenizer.ggml.model", "llama");
  gguf.add("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "\u2581", "a",
                                                             "b", "ab", "\u2581a", "<x>"});
  gguf.add("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1, -2, -3, -4, -5, 0});
  gguf.add("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1, 1, 1, 1, 1, 4});
  const Tokenizer tokenizer = from_gguf(gguf);
  EXPECT_EQ(*tokenizer.encode("ab a"), (std::vector<int32_t>{1, 3, 6, 7}));
  EXPECT_EQ(*tokenizer.encode("a<x>"), (std::vector<int32_t>{1, 7, 8})) << "user-defined piece";
  EXPECT_EQ(*tokenizer.encode("zz"), (std::vector<int32_t>{1, 3, 0})) << "unknowns fuse";
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, 3, 6, 7}), "ab a");
}

}  // namespace
}  // namespace nanoflow
