#include "base/json_fault.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

#include "base/json.h"

namespace nanoflow {
namespace {

std::string fault(std::string_view text) {
  return find_json_fault(text).value_or("none");
}

TEST(JsonFault, SaysWhichFieldAndWhat) {
  EXPECT_EQ(fault("{\"a\": 1,\n \"rope\": {\"factor\": NaN}}"),
            "rope.factor: NaN is no JSON number (line 2)");
  EXPECT_EQ(fault(R"({"eps": -Infinity})"), "eps: -Infinity is no JSON number (line 1)");
  EXPECT_EQ(fault(R"({"a": [1, {"b": 1e999}]})"), "a[1].b: 1e999 is out of range (line 1)");
  EXPECT_EQ(fault(R"([99999999999999999999])"),
            "[0]: 99999999999999999999 is out of range (line 1)");
  EXPECT_EQ(fault(R"({"a": 01})"), "a: 01 is no JSON value (line 1)");
  EXPECT_EQ(fault(R"({"a": True})"), "a: True is no JSON value (line 1)");
  EXPECT_EQ(fault(R"({"a": "x\ud800y"})"),
            "a: \\ud800 is half of a surrogate pair, no character (line 1)");
  EXPECT_EQ(fault(R"({"a": 1,})"), "a member's name in quotes is missing (line 1)");
  EXPECT_EQ(fault(R"({"a": 1 "b": 2})"), "\",\" or \"}\" is missing (line 1)");
  EXPECT_EQ(fault("{\"a\": \"x\ny\"}"),
            "a: a string has a line end or another control character, unescaped (line 1)");
  EXPECT_EQ(fault("1 2"), "there is more text behind the document (line 1)");
  EXPECT_EQ(fault(""), "the text ends where a value should be (line 1)");
  EXPECT_EQ(fault(R"({"a": "\x"})"), "a: a string has a backslash that escapes nothing (line 1)");
}

TEST(JsonFault, MessagesAreShortAndOneLine) {
  const std::string deep(100'000, '[');
  EXPECT_NE(fault(deep).find("nested more than 1024 deep"), std::string::npos);
  EXPECT_LT(fault(deep).size(), 400U);
  const std::string text = "{\"" + std::string(10'000, 'k') + "\": " + std::string(10'000, 'v') +
                           std::string("\x01", 1) + "}";
  EXPECT_LT(fault(text).size(), 250U);
  EXPECT_EQ(fault("{\"a\": v\x01}"), "a: v? is no JSON value (line 1)");
  EXPECT_EQ(find_json_fault("{\"\xff\": NaN}"), std::nullopt) << "no UTF-8, no words from it";
}

/// Whatever one changed byte makes of a document: parse_json and the search for faults agree.
TEST(JsonFault, AgreesWithTheParser) {
  const std::string document =
      R"({"a": [1, -2.5e3, true, null, "x\n\u00e9\ud83d\ude00"], "b": {"c": {}, "d": []}})";
  ASSERT_EQ(find_json_fault(document), std::nullopt);
  std::mt19937 rng(11);
  const std::string_view alphabet = "{}[]\",:\\ue0189-+.EtrunlfasdD \n\t";
  for (int round = 0; round < 20'000; ++round) {
    std::string text = document;
    for (uint32_t edits = 1 + rng() % 3; edits > 0; --edits) {
      const size_t at = rng() % text.size();
      const char c = alphabet[rng() % alphabet.size()];
      switch (rng() % 3) {
        case 0: text[at] = c; break;
        case 1: text.insert(at, 1, c); break;
        default: text.erase(at, 1);
      }
    }
    ASSERT_EQ(parse_json(text).has_value(), !find_json_fault(text).has_value()) << text << "\n"
                                                                                << fault(text);
  }
}

TEST(SalvageJsonMember, FindsWhatIsWhole) {
  const auto id = [](std::string_view text) { return salvage_json_member(text, "custom_id"); };
  EXPECT_EQ(id(R"({"custom_id": "a-1", "body": {"prompt": "\ud800"}})"), "a-1");
  EXPECT_EQ(id(R"({"body": {"prompt": "\ud800 \" { [", "custom_id": "inner"}, "custom_id" : "b"})"),
            "b");
  EXPECT_EQ(id(R"({"custom_id": 17, "x": NaN})"), "17");
  EXPECT_EQ(id(R"({"custom_id": "a\u00e9\"b", "x)"), "a\u00e9\"b");
  EXPECT_EQ(id(R"({"x": "custom_id", "y": "z", )"), std::nullopt);
  EXPECT_EQ(id(R"({"custom_id": "\ud800"})"), std::nullopt);
  EXPECT_EQ(id(R"({"custom_id": {"custom_id": "a"}})"), std::nullopt);
  EXPECT_EQ(id(R"([{"custom_id": "a"}])"), std::nullopt);
  EXPECT_EQ(id(R"({"custom_id": "no end)"), std::nullopt);
  EXPECT_EQ(id(R"({"custom_id")"), std::nullopt);
  EXPECT_EQ(id("{\"custom_id\": \"\xff\"}"), std::nullopt);
  EXPECT_EQ(id(""), std::nullopt);
}

}  // namespace
}  // namespace nanoflow
