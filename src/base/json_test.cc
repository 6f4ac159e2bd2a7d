#include "base/json.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

TEST(Json, ParsesAndPrintsInOrder) {
  const Result<Json> json = parse_json(R"({"b": [1, 2.5, true, null], "a": "x\n\u00e9"})");
  ASSERT_TRUE(json.has_value());
  EXPECT_EQ(json->dump(), "{\"b\":[1,2.5,true,null],\"a\":\"x\\n\u00e9\"}");
  EXPECT_EQ(json->dump(-1, true), "{\"b\": [1, 2.5, true, null], \"a\": \"x\\n\u00e9\"}");
}

TEST(Json, WholeDoublesKeepTheirPoint) {
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(1e300).dump(), "1e+300");
  EXPECT_EQ(Json(1).dump(), "1");
}

TEST(Json, LastDuplicateWins) {
  const Result<Json> json = parse_json(R"({"a": 1, "a": 2})");
  ASSERT_TRUE(json.has_value());
  EXPECT_EQ(json->find("a")->as_int(), 2);
  EXPECT_EQ(json->find("b"), nullptr);
}

TEST(Json, RefusesMalformedText) {
  for (const char* text : {"", "{", "[1,]", "NaN", "{\"a\" 1}", "\"\xff\"", "1 2"})
    EXPECT_FALSE(parse_json(text).has_value()) << text;
  EXPECT_FALSE(parse_json(std::string(5000, '[')).has_value());
}

TEST(Json, EscapesControlCharacters) {
  EXPECT_EQ(Json(std::string("\x01\"\\\t")).dump(), "\"\\u0001\\\"\\\\\\t\"");
}

}  // namespace
}  // namespace nanoflow
