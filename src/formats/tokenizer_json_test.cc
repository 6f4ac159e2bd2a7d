#include "formats/tokenizer_json.h"

#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/mmap.h"
#include "base/test_folder.h"
#include "formats/format_error_test.h"

namespace nanoflow {
namespace {

template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  EXPECT_EQ(format_testing::refusal_problem(parse, words, name), "");
}

constexpr std::string_view kSample = R"({"version": "1.0",
  "added_tokens": [{"id": 3, "content": "<s>", "special": true, "lstrip": true, "rstrip": false,
                    "normalized": false, "single_word": true}],
  "normalizer": null, "pre_tokenizer": {"type": "ByteLevel"}, "post_processor": {"type": "X"},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "unk_token": "a", "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": true, "continuing_subword_prefix": null, "end_of_word_suffix": "</w>",
            "vocab": {"a": 0, "b": 1, "ab": 2, "\u00e9\n": 5}, "merges": ["a b", ["b", "a"]]}})";

void refuses(std::string_view text, std::string_view words) {
  SCOPED_TRACE(text.substr(0, 300));
  expect_refused([&] { (void)parse_tokenizer_json(text, "input"); }, words);
}

/// A document whose model has these members beside its type.
std::string model(std::string_view members) {
  return fmt::format(R"({{"model": {{"type": "BPE", {}}}}})", members);
}

TEST(TokenizerJson, ReadsEveryField) {
  const TokenizerJson file = parse_tokenizer_json(kSample, "input");
  EXPECT_EQ(file.model_type, "BPE");
  EXPECT_EQ(file.vocab, (std::vector<std::string>{"a", "b", "ab", "", "", "é\n"}));
  EXPECT_EQ(file.merges,
            (std::vector<std::pair<std::string, std::string>>{{"a", "b"}, {"b", "a"}}));
  EXPECT_EQ(file.unk_token, "a");
  EXPECT_TRUE(file.byte_fallback && file.fuse_unk && file.ignore_merges);
  EXPECT_EQ(file.continuing_subword_prefix, "");
  EXPECT_EQ(file.end_of_word_suffix, "</w>");
  ASSERT_EQ(file.added_tokens.size(), 1u);
  const AddedToken& token = file.added_tokens[0];
  EXPECT_EQ(token.id, 3);
  EXPECT_EQ(token.content, "<s>");
  EXPECT_TRUE(token.special && token.lstrip && token.single_word);
  EXPECT_FALSE(token.rstrip || token.normalized);
  EXPECT_TRUE(file.normalizer.is_null());
  EXPECT_EQ(file.pre_tokenizer.find("type")->as_string(), "ByteLevel");
  EXPECT_TRUE(file.post_processor.is_object() && file.decoder.is_object());
}

TEST(TokenizerJson, OtherModelsAreNamedNotRead) {
  EXPECT_EQ(parse_tokenizer_json(R"({"model": {"type": "Unigram", "vocab": [["a", 0]]}})", "input")
                .model_type,
            "Unigram");
  // Files from before types were written.
  EXPECT_EQ(
      parse_tokenizer_json(R"({"model": {"vocab": {"a": 0}, "merges": []}})", "input").model_type,
      "BPE");
}

TEST(TokenizerJson, TruncatedAnywhereIsRefused) {
  for (size_t size = 0; size < kSample.size(); ++size) {
    const std::string part(kSample.substr(0, size));
    refuses(part, "invalid JSON");
  }
}

TEST(TokenizerJson, RefusesOtherDocuments) {
  for (const char* text : {"[]", "7", "null", "\"x\""}) refuses(text, "the document is no object");
  for (const char* text : {"{}", R"({"model": null})"}) refuses(text, "has no model");
  refuses(R"({"model": 7})", "model is no object");
  refuses(R"({"model": {"type": 7}})", "type is no string");
  refuses("{\"model\": {\"type\": \"\xff\"}}", "invalid JSON");
  refuses(std::string(5000, '['), "invalid JSON");
  refuses(R"({"model": {"dropout": NaN}})", "model.dropout: NaN is no JSON number");
}

TEST(TokenizerJson, RefusesBadModelFields) {
  refuses(model(R"("merges": [])"), "model.vocab is missing");
  refuses(model(R"("vocab": [])"), "model.vocab is no object");
  for (const char* key : {"byte_fallback", "fuse_unk", "ignore_merges"})
    refuses(model(fmt::format(R"("vocab": {{}}, "{}": "yes")", key)),
            fmt::format("{} is no boolean", key));
  for (const char* key : {"unk_token", "continuing_subword_prefix", "end_of_word_suffix"})
    refuses(model(fmt::format(R"("vocab": {{}}, "{}": 7)", key)),
            fmt::format("{} is no string", key));
}

TEST(TokenizerJson, RefusesBadIds) {
  for (const char* id : {"-1", "1.5", "\"1\"", "null", "[]", "16777217", "9223372036854775807",
                         "18446744073709551615"})
    refuses(model(fmt::format(R"("vocab": {{"a": {}}})", id)), "token \"a\" has a bad id");
  // An id beyond what a file of this size can hold would only allocate.
  refuses(model(R"("vocab": {"a": 1000000})"), "token \"a\" has a bad id");
  refuses(model(R"("vocab": {"a": 0, "b": 0})"), "tokens \"a\" and \"b\" share id 0");
  refuses(model(R"("vocab": {"a": 0, "a": 1})"), "token \"a\" has two ids");
  refuses(model(R"("vocab": {"two\nlines": -1})"), "two\\x0alines");
}

TEST(TokenizerJson, RefusesBadMerges) {
  const auto merges = [](std::string_view list) {
    return model(fmt::format(R"("vocab": {{"a": 0}}, "merges": {})", list));
  };
  refuses(merges("7"), "model.merges is no list");
  refuses(merges(R"(["ab"])"), "merge \"ab\" is not of the form");
  refuses(merges(R"(["a b c"])"), "merge \"a b c\" is not of the form");
  for (const char* list : {R"(["a b", " b"])", R"(["a b", "a "])", R"(["a b", ["", "b"]])"})
    refuses(merges(list), "merge 1 has an empty side");
  for (const char* list : {"[7]", "[null]", R"([["a"]])", R"([["a", "b", "c"]])"})
    refuses(merges(list), "a merge is neither");
  refuses(merges(R"([["a", 7]])"), "a merge is no string");
}

TEST(TokenizerJson, RefusesBadAddedTokens) {
  const auto added = [](std::string_view list) {
    return fmt::format(R"({{"added_tokens": {}, "model": {{"type": "X"}}}})", list);
  };
  refuses(added("7"), "added_tokens is no list");
  refuses(added("[7]"), "an added token is no object");
  for (const char* list : {"[{}]", R"([{"content": ""}])", R"([{"content": null, "id": 0}])"})
    refuses(added(list), "an added token has no content");
  refuses(added(R"([{"content": 7}])"), "content is no string");
  refuses(added(R"([{"content": "a"}])"), "added token \"a\" has no id");
  refuses(added(R"([{"content": "a", "id": -1}])"), "token \"a\" has a bad id");
  for (const char* key : {"special", "lstrip", "rstrip", "normalized", "single_word"})
    refuses(added(fmt::format(R"([{{"content": "a", "id": 0, "{}": 1}}])", key)),
            fmt::format("{} is no boolean", key));
}

TEST(TokenizerJson, PartsAreObjectsOrNull) {
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"})
    for (const char* value : {"7", "[]", "\"x\""})
      refuses(fmt::format(R"({{"{}": {}, "model": {{"type": "X"}}}})", key, value),
              fmt::format("{} is no object", key));
}

TEST(TokenizerJson, AFileReadsAsItsText) {
  const std::filesystem::path path(NANOFLOW_FIXTURES "/tokenizer/tiny_byte_level/tokenizer.json");
  const TokenizerJson file = read_tokenizer_json(path);
  const TokenizerJson text = parse_tokenizer_json(read_file(path), "input");
  EXPECT_FALSE(file.vocab.empty());
  EXPECT_EQ(file.vocab, text.vocab);
  EXPECT_EQ(file.merges, text.merges);
  EXPECT_EQ(file.pre_tokenizer, text.pre_tokenizer);
}

TEST(TokenizerJson, AnEmptyFileIsRefused) {
  const TestFolder folder;
  const std::string path = (folder / "tokenizer.json").string();
  write_file_atomically(path, "");
  expect_refused([&] { (void)read_tokenizer_json(path); }, "the file is empty", path);
}

TEST(TokenizerJson, MissingFilesAreIoErrors) {
  EXPECT_THROW((void)read_tokenizer_json("/nonexistent/tokenizer.json"), IoError);
}

}  // namespace
}  // namespace nanoflow
