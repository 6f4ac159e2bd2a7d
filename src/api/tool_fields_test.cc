// What a request may say of tools, and what its output must then be.
#include "api/tool_fields.h"

#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/openai_request.h"

namespace nanoflow {
namespace {

constexpr const char* kTools =
    R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object",)"
    R"("properties": {"x": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}}},)"
    R"({"type": "function", "function": {"name": "g"}}])";

Result<OpenAiRequest> parse(const std::string& fields) {
  const auto body =
      parse_json(R"({"messages": [{"role": "user", "content": "a"}], )" + fields + "}");
  EXPECT_TRUE(body.has_value()) << fields;
  return parse_openai_request(Endpoint::kChatCompletions, *body);
}

void expect_refused(const std::string& fields, const std::string& param) {
  const auto request = parse(fields);
  ASSERT_FALSE(request.has_value()) << fields;
  EXPECT_EQ(request.error().param, param);
}

std::string with_choice(const std::string& choice) {
  return fmt::format("{}, \"tool_choice\": {}", kTools, choice);
}

TEST(ToolFields, TheChoiceIsAutoWhereThereAreTools) {
  EXPECT_EQ(parse(kTools)->tools.choice, ToolChoice::kAuto);
  EXPECT_TRUE(parse(kTools)->tools.parallel);
  EXPECT_FALSE(parse(kTools)->structure.has_value());
  EXPECT_EQ(parse("\"tools\": []")->tools.choice, ToolChoice::kNone);
  EXPECT_EQ(parse("\"tool_choice\": \"auto\"")->tools.choice, ToolChoice::kNone);
  EXPECT_EQ(parse(with_choice("\"none\""))->tools.choice, ToolChoice::kNone);
  EXPECT_FALSE(parse(with_choice("null, \"parallel_tool_calls\": false"))->tools.parallel);
}

TEST(ToolFields, RequiredAndNamedCallsAreStructures) {
  const auto required = parse(with_choice("\"required\", \"parallel_tool_calls\": false"));
  ASSERT_TRUE(required.has_value()) << required.error().message;
  EXPECT_EQ(required->tools.choice, ToolChoice::kRequired);
  const auto schema = parse_json(required->structure->text);
  EXPECT_EQ(schema->find("minItems")->as_int(), 1);
  EXPECT_EQ(schema->find("maxItems")->as_int(), 1);
  EXPECT_EQ(schema->find("items")->find("anyOf")->as_array().size(), 2u);
  EXPECT_EQ(schema->find("$defs")->find("n")->find("type")->as_string(), "integer");
  const auto named = parse(with_choice(R"({"type": "function", "function": {"name": "g"}})"));
  ASSERT_TRUE(named.has_value()) << named.error().message;
  EXPECT_EQ(named->tools.name, "g");
  EXPECT_EQ(named->structure->text, R"({"type":"object"})");
  EXPECT_EQ(named->structure->kind, GrammarKind::kJsonSchema);
}

TEST(ToolFields, WhatIsMalformedNamesItsField) {
  expect_refused(R"("tools": {})", "tools");
  expect_refused(R"("tools": [3])", "tools[0].type");
  expect_refused(R"("tools": [{"type": "web"}])", "tools[0].type");
  expect_refused(R"("tools": [{"type": "function"}])", "tools[0].function.name");
  expect_refused(R"("tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}])",
                 "tools[0].function.parameters");
  expect_refused(R"("tools": [{"type": "function", "function": {"name": "f", "description": 3}}])",
                 "tools[0].function.description");
  for (const char* choice : {"3", "\"any\"", R"({"type": "function"})",
                             R"({"type": "function", "function": {"name": "h"}})"})
    expect_refused(with_choice(choice), "tool_choice");
  expect_refused(R"("tool_choice": "required")", "tool_choice");
  expect_refused(with_choice(R"("required", "guided_regex": "a")"), "tool_choice");
  expect_refused(with_choice("\"auto\", \"parallel_tool_calls\": 3"), "parallel_tool_calls");
  const char* other =
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"$defs": {"n":)"
      R"({"type": "null"}}}}}, {"type": "function", "function": {"name": "g", "parameters":)"
      R"({"$defs": {"n": {"type": "integer"}}}}}], "tool_choice": "required")";
  expect_refused(other, "tools");
}

}  // namespace
}  // namespace nanoflow
