#include "api/printable.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(Printable, OneLineEscapesWhatBreaksALineOrDrivesATerminal) {
  EXPECT_EQ(one_line("a \"b\" \xc3\xa9 \xf0\x9f\x98\x80"), "a \"b\" \xc3\xa9 \xf0\x9f\x98\x80");
  EXPECT_EQ(one_line("a\nb\tc\rd\\"), "a\\nb\\tc\\rd\\\\");
  EXPECT_EQ(one_line("\x1b[2J\x7f"), "\\u001b[2J\\u007f");
  EXPECT_EQ(one_line("\xc2\x9b"
                     "2J\xc2\x85"),
            "\\u009b2J\\u0085")
      << "C1: CSI and NEL";
  EXPECT_EQ(one_line("\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xae\xe2\x81\xa6"),
            "\\u2028\\u2029\\u202e\\u2066");
  EXPECT_EQ(one_line(std::string_view("\0", 1)), "\\u0000");
}

TEST(Printable, WhatIsNoUtf8IsShownAsBytes) {
  EXPECT_EQ(one_line("\x9b"
                     "2J"),
            "\\x9b2J")
      << "an 8-bit terminal takes it for CSI";
  EXPECT_EQ(one_line("\xe2\x80"), "\\xe2\\x80");
  EXPECT_EQ(one_line("\xc0\x9b"), "\\xc0\\x9b") << "overlong ESC";
  EXPECT_EQ(one_line("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(one_line("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
}

TEST(Printable, TerminalTextKeepsLines) {
  EXPECT_EQ(terminal_text("a\n\tb\\n\x1b]0;x\x07\r"), "a\n\tb\\n\\u001b]0;x\\u0007\\r");
}

TEST(Printable, ShortensByCharacters) {
  EXPECT_EQ(shortened("abc", 3), "abc");
  EXPECT_EQ(shortened("abcd", 3), "abc...");
  EXPECT_EQ(shortened("\xc3\xa9\xc3\xa9\xc3\xa9", 2), "\xc3\xa9\xc3\xa9...");
  EXPECT_EQ(shortened("", 0), "");
  EXPECT_EQ(count_characters("a\xc3\xa9\xf0\x9f\x98\x80"), 3u);
}

}  // namespace
}  // namespace nanoflow
