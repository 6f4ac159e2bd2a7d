#include "text/detokenizer.h"

#include <fmt/format.h>

#include "text/tokenizer_test_support.h"

namespace nanoflow {
namespace {

constexpr EncodeOptions kPlain{.add_special_tokens = false, .parse_special = false};

int32_t byte_token(const Tokenizer& tokenizer, unsigned value) {
  return *tokenizer.token_id(fmt::format("<0x{:02X}>", value));
}

TEST(Detokenizer, HoldsBackHalfACharacter) {
  const Tokenizer tokenizer = test::tiny_tokenizer("tiny_spm_legacy");
  Detokenizer stream(tokenizer);
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xE4)), "");
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xBD)), "");
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xA0)), "\u4F60");
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xF0)), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Detokenizer, OrdinaryTokensEndARunOfBytes) {
  const Tokenizer tokenizer = test::tiny_tokenizer("tiny_spm_legacy");
  Detokenizer stream(tokenizer);
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xE4)), "");
  EXPECT_EQ(stream.push(byte_token(tokenizer, 0xBD)), "");
  EXPECT_EQ(stream.push(*tokenizer.token_id("a")),
            "\uFFFD\uFFFD"
            "a");
}

TEST(Detokenizer, ByteLevelTokensJoinAcrossTokens) {
  const Tokenizer tokenizer = test::tiny_tokenizer("tiny_byte_level");
  const std::string text = "\U0001F600 \u00E9";
  Detokenizer stream(tokenizer);
  std::string got;
  const std::vector<int32_t> ids = *tokenizer.encode(text, kPlain);
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_TRUE(is_valid_utf8(part));
    got += part;
  }
  EXPECT_EQ(got, text);
  EXPECT_EQ(stream.finish(), "");
}

TEST(Detokenizer, LeadingSpaceBelongsToTheStartOnly) {
  const Tokenizer tokenizer = test::tiny_tokenizer("tiny_spm_legacy");
  const int32_t mark = *tokenizer.token_id("\u2581");
  Detokenizer start(tokenizer);
  EXPECT_EQ(start.push(mark), "");
  EXPECT_EQ(start.push(mark), " ");
  Detokenizer continued(tokenizer, {.continues_text = true});
  EXPECT_EQ(continued.push(mark), " ");
}

TEST(Detokenizer, SpecialTokensAndStrangeIds) {
  const Tokenizer tokenizer = test::tiny_tokenizer("tiny_byte_level");
  const int32_t bos = *tokenizer.bos_id();
  Detokenizer hidden(tokenizer);
  Detokenizer shown(tokenizer, {.skip_special = false});
  EXPECT_EQ(hidden.push(bos), "");
  EXPECT_EQ(shown.push(bos), "<s>");
  for (const int32_t id : {-1, INT32_MIN, INT32_MAX, tokenizer.vocab_size()}) {
    EXPECT_EQ(shown.push(id), "");
  }
}

}  // namespace
}  // namespace nanoflow
