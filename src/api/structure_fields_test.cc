#include "api/structure_fields.h"

#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "api/completion.h"
#include "api/openai_request.h"
#include "api/vocabulary_test_fixture.h"

namespace nanoflow {
namespace {

Result<OpenAiRequest> parse(const std::string& fields) {
  const Result<Json> body = parse_json(fmt::format(R"({{"prompt": "p", {}}})", fields));
  EXPECT_TRUE(body.has_value()) << fields;
  return parse_openai_request(Endpoint::kCompletions, *body);
}

void expect_source(const std::string& fields, GrammarKind kind, const std::string& text,
                   const std::string& param) {
  const Result<OpenAiRequest> request = parse(fields);
  ASSERT_TRUE(request.has_value()) << request.error().message;
  ASSERT_TRUE(request->structure.has_value()) << fields;
  EXPECT_EQ(request->structure->kind, kind);
  EXPECT_EQ(request->structure->text, text);
  EXPECT_EQ(request->structure->param, param);
  EXPECT_TRUE(may_ask_for_structure(fields));
}

void expect_refused(const std::string& fields, const std::string& param) {
  const Result<OpenAiRequest> request = parse(fields);
  ASSERT_FALSE(request.has_value()) << fields;
  EXPECT_EQ(request.error().param, param) << request.error().message;
}

TEST(StructureFields, EveryWayToAskIsUnderstood) {
  expect_source(R"("response_format": {"type": "json_object"})", GrammarKind::kJsonObject, "",
                "response_format");
  expect_source(R"("response_format": {"type": "json_schema", "json_schema":
                {"name": "n", "strict": true, "schema": {"type":"object"}}})",
                GrammarKind::kJsonSchema, R"({"type":"object"})",
                "response_format.json_schema.schema");
  expect_source(R"("structured_outputs": {"json": {"type":"string"}, "regex": null})",
                GrammarKind::kJsonSchema, R"({"type":"string"})", "structured_outputs.json");
  expect_source(R"("structured_outputs": {"regex": "a+"})", GrammarKind::kRegex, "a+",
                "structured_outputs.regex");
  expect_source(R"("structured_outputs": {"choice": ["a", "b"]})", GrammarKind::kChoice,
                R"(root ::= "a" | "b")", "structured_outputs.choice");
  expect_source(R"("structured_outputs": {"json_object": true})", GrammarKind::kJsonObject, "",
                "structured_outputs.json_object");
  expect_source(R"("guided_json": "{}")", GrammarKind::kJsonSchema, "{}", "guided_json");
  expect_source(R"("guided_regex": "x")", GrammarKind::kRegex, "x", "guided_regex");
  expect_source(R"("guided_choice": ["x"])", GrammarKind::kChoice, R"(root ::= "x")",
                "guided_choice");
  expect_source(R"("guided_grammar": "root ::= \"x\"")", GrammarKind::kEbnf, R"(root ::= "x")",
                "guided_grammar");
  EXPECT_TRUE(may_ask_for_structure(R"({"\u0067uided_json": {}})"));
  EXPECT_TRUE(may_ask_for_structure(R"({"tool_choice": "required"})"));
  EXPECT_FALSE(may_ask_for_structure(R"({"prompt": "p"})"));
}

TEST(StructureFields, NothingIsAskedForByTextNullAndFalse) {
  for (const char* fields :
       {R"("response_format": {"type": "text"})", R"("guided_json": null)",
        R"("structured_outputs": {})", R"("structured_outputs": {"json_object": false})"}) {
    const Result<OpenAiRequest> request = parse(fields);
    ASSERT_TRUE(request.has_value()) << request.error().message;
    EXPECT_FALSE(request->structure.has_value());
  }
}

TEST(StructureFields, WhatIsMalformedNamesItsField) {
  expect_refused(R"("response_format": 7)", "response_format");
  expect_refused(R"("response_format": {})", "response_format.type");
  expect_refused(R"("response_format": {"type": "xml"})", "response_format.type");
  expect_refused(R"("response_format": {"type": "json_schema"})", "response_format.json_schema");
  expect_refused(R"("response_format": {"type": "json_schema", "json_schema": {"name": "n"}})",
                 "response_format.json_schema.schema");
  expect_refused(
      R"("response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}})",
      "response_format.json_schema.strict");
  expect_refused(R"("structured_outputs": [])", "structured_outputs");
  expect_refused(R"("structured_outputs": {"xml": "x"})", "structured_outputs.xml");
  expect_refused(R"("structured_outputs": {"choice": []})", "structured_outputs.choice");
  expect_refused(R"("structured_outputs": {"choice": ["a", 1]})", "structured_outputs.choice");
  expect_refused(R"("structured_outputs": {"json_object": 1})", "structured_outputs.json_object");
  expect_refused(R"("guided_regex": 3)", "guided_regex");
  expect_refused(R"("guided_json": 3)", "guided_json");
  expect_refused(R"("guided_json": {}, "guided_regex": "a")", "guided_regex");
}

class Structured : public WithVocabulary {
 protected:
  Result<Completion> create(const std::string& fields) {
    const Result<OpenAiRequest> request = parse(fields);
    EXPECT_TRUE(request.has_value()) << request.error().message;
    return Completion::create(model_, *request, "id", 1);
  }
};

TEST_F(Structured, EveryChoiceFollowsTheConstraintAndBadOnesAreRefused) {
  const auto without = create(R"("guided_regex": "a")");
  ASSERT_FALSE(without.has_value());
  EXPECT_EQ(without.error().code, ErrorCode::kUnsupported);
  model_.grammars = std::make_unique<GrammarCompiler>(*model_.tokenizer, model_.limits.vocab_size);
  Result<Completion> completion = create(R"("guided_regex": "ab", "n": 3)");
  ASSERT_TRUE(completion.has_value()) << completion.error().message;
  for (const Request& request : completion->take_engine_requests())
    EXPECT_NE(request.constraint, nullptr);
  Result<Completion> plain = create(R"("n": 1)");
  EXPECT_EQ(plain->take_engine_requests().front().constraint, nullptr);
  const auto bad = create(R"("structured_outputs": {"regex": "("})");
  ASSERT_FALSE(bad.has_value());
  EXPECT_EQ(bad.error().param, "structured_outputs.regex");
  int status = 0;
  (void)error_body(bad.error(), &status);
  EXPECT_EQ(status, 400);
}

}  // namespace
}  // namespace nanoflow
