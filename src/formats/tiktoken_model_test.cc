#include "formats/tiktoken_model.h"

#include <gtest/gtest.h>

#include "formats/format_error_test.h"

namespace nanoflow {
namespace {

template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  EXPECT_EQ(format_testing::refusal_problem(parse, words, name), "");
}

void refuses(std::string_view text, std::string_view words) {
  SCOPED_TRACE(text);
  expect_refused([&] { (void)parse_tiktoken_model(text, "input"); }, words);
}

TEST(Tiktoken, ReadsRanks) {
  EXPECT_EQ(parse_tiktoken_model("IQ== 0\nIiM= 1\r\n\nJCUm 2\n/+8= 3", "input"),
            (TiktokenRanks{"!", "\"#", "$%&", "\xff\xef"}));
}

TEST(Tiktoken, AnyByteIsAToken) {
  EXPECT_EQ(parse_tiktoken_model("AA== 0\nCg== 1\n", "input"),
            (TiktokenRanks{std::string(1, '\0'), "\n"}));
}

TEST(Tiktoken, RefusesBadLinesByNumber) {
  for (const char* line : {"IQ==", "IQ== ", " 1", "IQ== x", "IQ== 1x", "IQ== 1 ", "IQ==  1",
                           "IQ== 1.0", "IQ== 99999999999999999999", "I 1", "IQ 1", "IQ= 1",
                           "I=== 1", "==== 1", "I=Q= 1", "IQ==IQ== 1", "I!== 1", "\xff\xff== 1"})
    refuses(std::string("AA== 0\n") + line + "\n", "line 2 is no \"<base64> <rank>\"");
}

TEST(Tiktoken, RanksCountFromZeroWithoutHoles) {
  refuses("IQ== 1\n", "line 1 has rank 1, expected 0");
  refuses("IQ== 0\nIg== 2\n", "line 2 has rank 2, expected 1");
  refuses("IQ== 0\nIg== 0\n", "line 2 has rank 0, expected 1");
  refuses("IQ== -1\n", "line 1 has rank -1, expected 0");
  refuses("IQ== 9223372036854775807\n", "expected 0");
}

TEST(Tiktoken, TokensDoNotRepeat) {
  refuses("IQ== 0\nIg== 1\nIQ== 2\n", "line 3 repeats the token of line 1");
}

TEST(Tiktoken, EmptyFilesAreRefused) {
  refuses("", "has no tokens");
  refuses("\n\r\n", "has no tokens");
  EXPECT_THROW((void)read_tiktoken_model("/nonexistent/tokenizer.model"), IoError);
}

TEST(Tiktoken, IsRecognisedByItsFirstLine) {
  EXPECT_TRUE(is_tiktoken_model("IQ== 0\ngarbage"));
  EXPECT_FALSE(is_tiktoken_model(""));
  EXPECT_FALSE(is_tiktoken_model("\n"));
  EXPECT_FALSE(is_tiktoken_model("{\"model\": 0}\n"));
  EXPECT_FALSE(is_tiktoken_model(std::string("\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", 16)));
}

}  // namespace
}  // namespace nanoflow
