// The small parts: UTF-8 repair, normalisation, added tokens, splits, tables.
#include <set>

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_test_support.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

std::string repaired(std::string bytes, bool final, BadBytes bad, size_t left) {
  std::string out;
  drain_utf8(bytes, final, bad, out);
  EXPECT_EQ(bytes.size(), left);
  return out;
}

TEST(Unicode, DrainReplacesWhatIsNoCharacter) {
  constexpr auto kSequence = BadBytes::kPerSequence;
  constexpr auto kByte = BadBytes::kPerByte;
  EXPECT_EQ(repaired("a\xE4\xBD", false, kSequence, 2), "a");
  EXPECT_EQ(repaired("a\xE4\xBD", true, kSequence, 0), "a\uFFFD");
  EXPECT_EQ(repaired("a\xE4\xBD", true, kByte, 0), "a\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xE4\xBDx", false, kSequence, 0), "\uFFFDx");
  EXPECT_EQ(repaired("\xE4\xBDx", false, kByte, 0), "\uFFFD\uFFFDx");
  EXPECT_EQ(repaired("\xED\xA0\x80", false, kSequence, 0), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(repaired("\xF0\x9F\x98", false, kByte, 3), "");
  EXPECT_EQ(repaired("\xC0\x80\xFF", false, kSequence, 0), "\uFFFD\uFFFD\uFFFD");
}

TEST(Unicode, Classes) {
  EXPECT_EQ(char_class('a'), CharClass::kLetter);
  EXPECT_EQ(char_class(0x00B2), CharClass::kNumber);
  EXPECT_EQ(char_class(0x0085), CharClass::kSpace);
  EXPECT_EQ(char_class(0x3000), CharClass::kSpace);
  EXPECT_EQ(char_class(0x180E), CharClass::kOther);
  EXPECT_EQ(char_class(0x200B), CharClass::kOther);
  EXPECT_EQ(char_class(0x0301), CharClass::kOther);
  EXPECT_EQ(char_class(0x20000), CharClass::kLetter);
  EXPECT_EQ(char_class(0x10FFFF), CharClass::kOther);
}

TEST(Normalizer, ComposingSegmentsEqualsComposingTheText) {
  const Normalizer nfc({Normalizer::Step(UnicodeForm::kNfc)});
  std::mt19937 rng(3);
  static constexpr std::u32string_view kTricky =
      U"aeoAqk "
      U"\u0301\u0323\u0307\u0344\u00E9\u0041\u030A\u212B\u2126\u1112\u1161\u11AB\uAC00\u0928\u093C"
      U"\u09C7\u09BE\u3099\u304B\u4E2D\uF900\u201C\u2001\u1E9B\u0958";
  for (int round = 0; round < 5000; ++round) {
    std::string text = test::random_text(rng, rng() % 5);
    for (size_t i = 0; i < rng() % 12; ++i) append_utf8(text, kTricky[rng() % kTricky.size()]);
    std::string buffer;
    ASSERT_EQ(nfc.normalize(text, buffer), normalize_unicode(text, UnicodeForm::kNfc)) << text;
  }
}

TEST(Normalizer, Steps) {
  const Normalizer spm({PrependStep{"_"}, ReplaceStep{" ", "_"}});
  std::string buffer;
  EXPECT_EQ(spm.normalize("a  b", buffer), "_a__b");
  EXPECT_EQ(spm.normalize("", buffer), "");
  EXPECT_EQ(Normalizer().normalize("x", buffer), "x");
}

std::vector<std::string> marked(const AddedTokenMatcher& matcher, std::string_view text) {
  std::vector<std::string> parts;
  for (size_t pos = 0;;) {
    const auto match = matcher.find(text, pos);
    if (match.id < 0) {
      parts.emplace_back(text.substr(pos));
      return parts;
    }
    parts.emplace_back(text.substr(pos, match.begin - pos));
    parts.push_back("#" + std::to_string(match.id));
    pos = match.end;
  }
}

using Parts = std::vector<std::string>;

TEST(AddedTokens, LeftmostLongest) {
  const AddedTokenMatcher matcher({{"<a", 1}, {"<a>", 2}, {"a>", 3}});
  EXPECT_EQ(marked(matcher, "x<a>y<a a>"), (Parts{"x", "#2", "y", "#1", " ", "#3", ""}));
  EXPECT_EQ(marked(AddedTokenMatcher(), "x"), Parts{"x"});
}

TEST(AddedTokens, StripAndSingleWord) {
  AddedTokenPattern strip{"<t>", 1, true, true, false};
  AddedTokenPattern word{"ok", 2, false, false, true};
  const AddedTokenMatcher matcher({strip, word});
  EXPECT_EQ(marked(matcher, "a \u3000<t>\n b"), (Parts{"a", "#1", "b"}));
  EXPECT_EQ(marked(matcher, "<t> <t>"), (Parts{"", "#1", "", "#1", ""}));
  EXPECT_EQ(marked(matcher, "okay ok, \u00E9ok ok"),
            (Parts{"okay ", "#2", ", \u00E9ok ", "#2", ""}));
}

struct Collect final : PieceSink {
  void piece(std::string_view text) override { pieces.emplace_back(text); }
  Parts pieces;
};

Parts split(SplitBehavior behavior, bool invert, std::string_view text) {
  Collect sink;
  const PreTokenizer pre({SplitStep{std::string("-"), behavior, invert}});
  EXPECT_TRUE(pre.split(text, sink));
  return sink.pieces;
}

TEST(PreTokenizer, SplitBehaviorsAsHuggingFaceDocumentsThem) {
  const std::string_view text = "the-final--countdown";
  EXPECT_EQ(split(SplitBehavior::kRemoved, false, text), (Parts{"the", "final", "countdown"}));
  EXPECT_EQ(split(SplitBehavior::kIsolated, false, text),
            (Parts{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split(SplitBehavior::kMergedWithPrevious, false, text),
            (Parts{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split(SplitBehavior::kMergedWithNext, false, text),
            (Parts{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split(SplitBehavior::kContiguous, false, text),
            (Parts{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split(SplitBehavior::kRemoved, true, text), (Parts{"-", "-", "-"}));
}

TEST(RegexSplitter, RefusesWhatItCannotRead) {
  EXPECT_THROW(RegexSplitter("("), ConfigError);
  EXPECT_THROW(RegexSplitter("[\\p{L}&&[^a]]"), ConfigError);
  EXPECT_THROW(RegexSplitter("\\p{Nonsense}"), ConfigError);
}

TEST(RegexSplitter, LongMatchesCrossWindows) {
  const RegexSplitter regex("a+(?!c)|b");
  std::vector<std::pair<size_t, size_t>> matches;
  ASSERT_TRUE(regex.find_all(std::string(100000, 'a') + "cb", matches));
  EXPECT_EQ(matches, (std::vector<std::pair<size_t, size_t>>{{0, 99999}, {99999 + 2, 100002}}));
}

TEST(RegexSplitter, UnboundedWorkIsRefusedInTime) {
  std::vector<std::pair<size_t, size_t>> matches;
  EXPECT_FALSE(RegexSplitter("(a+)+(b|c)").find_all(std::string(5000, 'a'), matches));
  EXPECT_FALSE(RegexSplitter("a(?=.*b)|[^a]").find_all(std::string(1000000, 'a'), matches));
}

TEST(ByteLevel, SpellsEveryByteOnce) {
  std::set<std::string> spellings;
  std::string back;
  for (int b = 0; b < 256; ++b) {
    const std::string byte(1, static_cast<char>(b));
    const std::string spelled = byte_level_of_bytes(byte);
    spellings.insert(spelled);
    EXPECT_TRUE(bytes_of_byte_level(spelled, back));
    EXPECT_EQ(back, byte);
  }
  EXPECT_EQ(spellings.size(), 256u);
  EXPECT_EQ(byte_level_of_bytes(" a\n"), "\u0120a\u010A");
  EXPECT_FALSE(bytes_of_byte_level("a b", back));
  EXPECT_FALSE(bytes_of_byte_level("\u4E2D", back));
}

TEST(TokenTable, FindsEveryStringAndNoOther) {
  StringTable strings;
  for (int i = 0; i < 5000; ++i) strings.push_back(i % 7 == 0 ? "" : "t" + std::to_string(i));
  const TokenIndex index(strings);
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(index.find(strings, "t" + std::to_string(i)), i % 7 == 0 ? -1 : i);
  }
  EXPECT_EQ(index.find(strings, ""), -1);
  EXPECT_EQ(index.find(strings, std::string(1000, 't')), -1);
  EXPECT_EQ(TokenIndex().find(strings, "t1"), -1);
}

TEST(TokenTable, LastOfEqualMergesCounts) {
  const MergeTable table({{1, 2, 0, 5}, {1, 2, 9, 6}, {2, 1, 3, 7}});
  EXPECT_EQ(table.find(1, 2)->result, 6);
  EXPECT_EQ(table.find(2, 1)->rank, 3u);
  EXPECT_EQ(table.find(1, 1), nullptr);
  EXPECT_EQ(MergeTable().find(1, 2), nullptr);
}

}  // namespace
}  // namespace nanoflow
