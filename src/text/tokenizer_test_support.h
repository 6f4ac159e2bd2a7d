// What the tokeniser tests share: fixtures, real vocabularies, random text.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "base/mmap.h"
#include "text/tokenizer_builders.h"
#include "text/tokenizer_loader.h"
#include "text/unicode.h"

namespace nanoflow::test {

inline std::filesystem::path tokenizer_fixtures() {
  return std::filesystem::path(NANOFLOW_FIXTURES) / "tokenizer";
}

/// Where the unpacked packages with real vocabularies lie (deps.lock, tools/fetch_test_inputs.sh).
inline std::filesystem::path vocab_dir() {
  const char* set = std::getenv("NANOFLOW_VOCAB_DIR");
  return set ? std::filesystem::path(set)
             : std::filesystem::path(NANOFLOW_SOURCE_DIR) / ".deps" / "vocab";
}

/// A file of those packages; the test fails with instructions when it is missing.
inline std::filesystem::path vocab_file(const std::string& relative) {
  std::filesystem::path path = vocab_dir() / relative;
  EXPECT_TRUE(std::filesystem::exists(path))
      << path << " is missing: run tools/fetch_test_inputs.sh (test.sh does), or point "
      << "NANOFLOW_VOCAB_DIR to the unpacked packages";
  return path;
}

inline Json read_json(const std::filesystem::path& path) {
  Result<Json> json = parse_json(read_file(path));
  EXPECT_TRUE(json.has_value()) << path;
  return json ? *json : Json();
}

inline std::vector<int32_t> ids_of(const Json& list) {
  std::vector<int32_t> ids;
  for (const Json& id : list.as_array()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

inline Tokenizer tiny_tokenizer(const std::string& name) {
  return load_tokenizer(tokenizer_fixtures() / name);
}

/// Random text that is rich in what pre-tokenisers look at.
inline std::string random_text(std::mt19937& rng, size_t characters) {
  static constexpr std::u32string_view kCommon =
      U"abcdestvrlmSTRVLMDE  ''  \n\r\t 0123456789.,;!?-_()<|>/\u017F\u00E9\u0301\u4E2D\u6587"
      U"\u0661\u00B2\u00A0\u2003\u3000\u2028\u0085\u2581\U0001F600\U0001F468\u200D\u0416\u05D0";
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    char32_t c = kCommon[rng() % kCommon.size()];
    if (rng() % 8 == 0) {
      do {
        c = rng() % 4 == 0 ? static_cast<char32_t>(rng() % 0x110000)
                           : static_cast<char32_t>(rng() % 0x3000);
      } while (c >= 0xD800 && c < 0xE000);
    }
    append_utf8(text, c);
  }
  return text;
}

}  // namespace nanoflow::test
