#include "formats/hub_listing.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace nanoflow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;

std::vector<HubFile> files(const std::vector<std::string>& names) {
  std::vector<HubFile> all;
  for (const std::string& name : names) all.push_back({.name = name, .size = 1});
  return all;
}

std::vector<std::string> selected(const std::vector<std::string>& names,
                                  const std::vector<std::string>& include = {},
                                  const std::vector<std::string>& exclude = {}) {
  std::vector<std::string> kept;
  for (const HubFile& file : select_files(files(names), include, exclude, "org/model"))
    kept.push_back(file.name);
  return kept;
}

// Expected values are those of Python's fnmatch.fnmatchcase.
TEST(HubPatterns, MatchAsPythonsDo) {
  const struct {
    const char* pattern;
    const char* name;
    bool matches;
  } cases[] = {
      {"*.json", "config.json", true},
      {"*.json", "sub/config.json", true},
      {"*.json", "config.jsonl", false},
      {"*", "", true},
      {"", "", true},
      {"", "a", false},
      {"a*b*c", "a__b_b__c", true},
      {"a*b*c", "a__b_b__d", false},
      {"**", "a/b", true},
      {"?.txt", "a.txt", true},
      {"?.txt", ".txt", false},
      {"[abc]x", "bx", true},
      {"[abc]x", "dx", false},
      {"[!abc]x", "dx", true},
      {"[!abc]x", "ax", false},
      {"[a-c]x", "bx", true},
      {"[a-c]x", "dx", false},
      {"[]]x", "]x", true},
      {"[!]]x", "]x", false},
      {"[a-]x", "-x", true},
      {"[ax", "[ax", true},
      {"[ax", "ax", false},
      {"model-0000[12]-of-*", "model-00002-of-00007.safetensors", true},
      {"Config.json", "config.json", false},
      {"original/", "original/params.json", true},
      {"original/", "original", false},
  };
  for (const auto& c : cases)
    EXPECT_EQ(matches_pattern(c.pattern, c.name), c.matches) << c.pattern << " on " << c.name;
}

TEST(HubPatterns, ManyStarsStayQuick) {
  std::string pattern;
  for (int i = 0; i < 500; ++i) pattern += "*a";
  EXPECT_FALSE(matches_pattern(pattern + "b", std::string(5000, 'a')));
}

TEST(HubNames, OnlyThoseBelowTheFolderAreSafe) {
  for (const char* name : {"config.json", "sub/a.json", ".gitattributes", "..a", "a..", "\xc3\xa9"})
    EXPECT_TRUE(is_safe_name(name)) << name;
  for (const char* name : {"", "/a", "a/", "a//b", "..", "../a", "a/..", "a/../b", ".", "./a",
                           "a/.", "a\\b", "a\nb", "a\x7f"})
    EXPECT_FALSE(is_safe_name(name)) << name;
  EXPECT_FALSE(is_safe_name(std::string_view("a\0b", 3)));
  EXPECT_TRUE(is_safe_name(std::string(255, 'a')));
  EXPECT_FALSE(is_safe_name(std::string(256, 'a')));
  EXPECT_FALSE(is_safe_name(std::string(600, 'a') + "/" + std::string(600, 'b')));
}

TEST(HubSelection, TakesWhatServingNeeds) {
  EXPECT_THAT(
      selected({"config.json", "README.md", "model.safetensors", "pytorch_model.bin",
                "consolidated.00.pth", "tokenizer.model", "tokenizer.json", "chat_template.jinja",
                "additional_chat_templates/tool.jinja", "original/params.json",
                "original/consolidated.safetensors", "onnx/model.onnx", "merges.txt", "model.gguf",
                "qwen.tiktoken"}),
      UnorderedElementsAre("config.json", "model.safetensors", "tokenizer.model", "tokenizer.json",
                           "chat_template.jinja", "additional_chat_templates/tool.jinja",
                           "merges.txt", "qwen.tiktoken"));
}

TEST(HubSelection, TakesOneCopyOfTheWeights) {
  EXPECT_THAT(
      selected({"consolidated.safetensors", "consolidated.safetensors.index.json",
                "model-00001-of-00001.safetensors", "model.safetensors.index.json"}),
      UnorderedElementsAre("model-00001-of-00001.safetensors", "model.safetensors.index.json"));
  EXPECT_THAT(selected({"consolidated.safetensors", "params.json"}),
              UnorderedElementsAre("consolidated.safetensors", "params.json"));
}

TEST(HubSelection, GgufRepositories) {
  EXPECT_THAT(selected({"README.md", "m.gguf"}), ElementsAre("m.gguf"));
  EXPECT_THAT(
      [] {
        selected({"a-Q4.gguf", "a-Q8.gguf"});
      },
      ThrowsMessage<ConfigError>(HasSubstr("name the one to fetch: a-Q4.gguf, a-Q8.gguf")));
  EXPECT_THAT(selected({"a-Q4.gguf", "a-Q8.gguf"}, {}, {"*Q8*"}), ElementsAre("a-Q4.gguf"));
  EXPECT_THAT(selected({"a-Q4.gguf", "a-Q8.gguf", "README.md"}, {"*Q8.gguf"}),
              ElementsAre("a-Q8.gguf"));
}

TEST(HubSelection, NothingToServeIsAnError) {
  EXPECT_THAT(
      [] {
        selected({"config.json", "pytorch_model.bin"});
      },
      ThrowsMessage<ConfigError>(HasSubstr("no .safetensors and no .gguf")));
  EXPECT_THAT(
      [] {
        selected({"config.json"}, {"*.x", "y"});
      },
      ThrowsMessage<ConfigError>(HasSubstr("no file matches *.x, y")));
}

TEST(HubSelection, UnsafeNamesMatterOnlyWhenWanted) {
  EXPECT_THAT(selected({"../evil.bin", "model.safetensors"}), ElementsAre("model.safetensors"));
  EXPECT_THROW(selected({"../evil.bin", "model.safetensors"}, {"*"}), NetworkError);
}

TEST(HubSelection, TooManyFilesAreAnError) {
  std::vector<std::string> names(kMaxFiles + 1, "a.txt");
  EXPECT_THAT([&] { selected(names, {"*"}); },
              ThrowsMessage<ConfigError>(HasSubstr("files match")));
}

TEST(HubListingAnswer, IsRead) {
  const std::string commit(40, 'a'), sha256(64, 'b'), git(40, 'c');
  const HubListing listing = parse_hub_listing(R"({"sha": ")" + commit + R"(", "siblings": [
          {"rfilename": "config.json", "size": 7, "blobId": ")" +
                                                   git + R"("},
          {"rfilename": "w.safetensors", "size": 9, "blobId": ")" +
                                                   git + R"(",
           "lfs": {"sha256": ")" + sha256 + R"(", "size": 9, "pointerSize": 134}},
          {"rfilename": "old.json"}, {"rfilename": "odd.json", "size": -3, "blobId": "xyz"}]})",
                                               "http://hub");
  EXPECT_EQ(listing.commit, commit);
  EXPECT_THAT(listing.files,
              ElementsAre(HubFile{.name = "config.json", .size = 7, .git_sha1 = git},
                          HubFile{.name = "w.safetensors", .size = 9, .sha256 = sha256},
                          HubFile{.name = "old.json"}, HubFile{.name = "odd.json"}));
  const Json kept = parse_json(listing_to_json(listing).dump()).value();
  const HubListing again = listing_from_json(kept, "x");
  EXPECT_EQ(again.files, listing.files);
  EXPECT_EQ(again.commit, commit);
}

TEST(HubListingAnswer, OtherThingsAreRefused) {
  const std::string commit = R"("sha": ")" + std::string(40, 'a') + "\"";
  for (const std::string& text :
       {std::string(""), std::string("<html>"), std::string("[]"), std::string("{}"),
        std::string(R"({"sha": "main", "siblings": []})"), "{" + commit + "}",
        "{" + commit + R"(, "siblings": {}})"})
    EXPECT_THROW(parse_hub_listing(text, "http://hub"), NetworkError) << text;
  EXPECT_THROW(listing_from_json(parse_json("{}").value(), "x"), FormatError);
  // Odd entries of an otherwise sound list have names that nothing selects, or that are unsafe.
  const HubListing odd = parse_hub_listing(
      "{" + commit + R"(, "siblings": [1, null, {}, {"rfilename": 5}]})", "http://hub");
  EXPECT_THROW(select_files(odd.files, {"*"}, {}, "org/model"), NetworkError);
}

}  // namespace
}  // namespace nanoflow
