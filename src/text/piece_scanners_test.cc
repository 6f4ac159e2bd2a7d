#include "text/piece_scanners.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include "text/regex_splitter.h"
#include "text/tokenizer_test_support.h"

namespace nanoflow {
namespace {

std::vector<std::string> pieces(std::string_view regex, std::string_view text) {
  const PiecePattern pattern = *known_pattern(regex);
  std::vector<std::string> result;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = next_piece(pattern, text, pos);
    if (end <= pos) {
      ADD_FAILURE() << "no progress at " << pos;
      break;
    }
    result.emplace_back(text.substr(pos, end - pos));
    pos = end;
  }
  return result;
}

/// Whether `text` has a character that only one of utf8proc and PCRE2 knows: they come from
/// different versions of Unicode, and which of them is the newer one depends on the system.
/// PCRE2 also counts U+180E as white space, which Unicode does not since 6.3.
bool may_differ(std::string_view text) {
  static const RegexSplitter unassigned{"\\p{Cn}"};
  std::vector<std::pair<size_t, size_t>> matches;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_valid_utf8(text.data() + pos);
    matches.clear();
    EXPECT_TRUE(unassigned.find_all(text.substr(pos, c.length), matches));
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c.value));
    const bool known_to_pcre2 = matches.empty();
    const bool known_to_utf8proc = category != UTF8PROC_CATEGORY_CN;
    if (known_to_pcre2 != known_to_utf8proc || c.value == 0x180E) return true;
    pos += c.length;
  }
  return false;
}

/// The same by PCRE2 on the pattern itself; nullopt where something is left unmatched.
std::vector<std::string> oracle(const RegexSplitter& regex, std::string_view text) {
  std::vector<std::pair<size_t, size_t>> matches;
  EXPECT_TRUE(regex.find_all(text, matches));
  std::vector<std::string> result;
  for (const auto& [begin, end] : matches) result.emplace_back(text.substr(begin, end - begin));
  return result;
}

using Pieces = std::vector<std::string>;

TEST(PieceScanners, Gpt2ByHand) {
  EXPECT_EQ(pieces(kGpt2Regex, "I'm 12 x  y\n"), (Pieces{"I", "'m", " 12", " x", " ", " y", "\n"}));
  EXPECT_EQ(pieces(kGpt2Regex, "I'M"), (Pieces{"I", "'", "M"}));
  EXPECT_EQ(pieces(kGpt2Regex, "a  "), (Pieces{"a", "  "}));
}

TEST(PieceScanners, Llama3ByHand) {
  EXPECT_EQ(pieces(kLlama3Regex, "I'LL go 12345!\n\n x"),
            (Pieces{"I", "'LL", " go", " ", "123", "45", "!\n\n", " x"}));
  EXPECT_EQ(pieces(kLlama3Regex, "\n \n  x"), (Pieces{"\n \n", " ", " x"}));
  EXPECT_EQ(pieces(kQwen2Regex, "123"), (Pieces{"1", "2", "3"}));
  EXPECT_EQ(pieces(kLlama3Regex, "'\u017Fx"), (Pieces{"'\u017F", "x"}));
}

TEST(PieceScanners, DigitsTileTheText) {
  const PiecePattern runs{PiecePattern::Kind::kDigits, 0};
  const PiecePattern each{PiecePattern::Kind::kDigits, 1};
  const std::string_view text = "ab12 \u0663\u0664";
  EXPECT_EQ(next_piece(runs, text, 0), 2u);
  EXPECT_EQ(next_piece(runs, text, 2), 4u);
  EXPECT_EQ(next_piece(runs, text, 4), 5u);
  EXPECT_EQ(next_piece(runs, text, 5), text.size());
  EXPECT_EQ(next_piece(each, text, 2), 3u);
  EXPECT_EQ(next_piece(each, text, 5), 7u);
}

TEST(PieceScanners, OnlyExactPatternsAreKnown) {
  EXPECT_FALSE(known_pattern("\\p{L}+"));
  EXPECT_FALSE(known_pattern(std::string(kGpt2Regex) + " "));
}

class ScannerOracle : public testing::TestWithParam<std::string_view> {};

TEST_P(ScannerOracle, EqualsTheRegularExpression) {
  const RegexSplitter regex{std::string(GetParam())};
  std::mt19937 rng(20261123);
  for (int round = 0; round < 4000; ++round) {
    std::string text = test::random_text(rng, 1 + rng() % 40);
    if (may_differ(text)) continue;
    ASSERT_EQ(pieces(GetParam(), text), oracle(regex, text)) << text;
  }
}

// The classes agree for every character, not only those of common text.
TEST_P(ScannerOracle, EqualsOnEveryCharacterOfTheBasicPlane) {
  const RegexSplitter regex{std::string(GetParam())};
  for (char32_t c = 0; c < 0x10000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text = "a";
    append_utf8(text, c);
    if (may_differ(text)) continue;
    text += " ";
    append_utf8(text, c);
    append_utf8(text, c);
    text += "1";
    ASSERT_EQ(pieces(GetParam(), text), oracle(regex, text)) << static_cast<uint32_t>(c);
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, ScannerOracle,
                         testing::Values(kGpt2Regex, kLlama3Regex, kQwen2Regex));

}  // namespace
}  // namespace nanoflow
