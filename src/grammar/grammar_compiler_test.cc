#include "grammar/grammar_compiler.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "text/tokenizer_loader.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

constexpr int32_t kEnd = 128009;

class Grammars : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* set = std::getenv("NANOFLOW_VOCAB_DIR");
    const auto inputs = set != nullptr ? std::filesystem::path(set)
                                       : std::filesystem::path(NANOFLOW_SOURCE_DIR) / ".deps/vocab";
    const auto vocabulary = inputs / "llama_models/llama_models/llama3";
    ASSERT_TRUE(std::filesystem::exists(vocabulary)) << vocabulary << " is missing: run ./test.sh";
    tokenizer = new Tokenizer(load_tokenizer(vocabulary));
    compiler = new GrammarCompiler(*tokenizer, tokenizer->vocab_size());
  }
  static void TearDownTestSuite() {
    delete compiler;
    delete tokenizer;
    compiler = nullptr;
    tokenizer = nullptr;
  }

  static std::vector<int32_t> mask_of(ConstraintState& state) {
    std::vector<int32_t> mask(static_cast<size_t>(mask_words(tokenizer->vocab_size())));
    EXPECT_TRUE(state.fill_mask(mask));
    return mask;
  }
  static bool allows(const std::vector<int32_t>& mask, int32_t id) {
    return (static_cast<uint32_t>(mask[static_cast<size_t>(id / 32)]) >> (id % 32) & 1U) != 0;
  }
  /// Whether `text` keeps to the grammar token by token, by masks and by accept alike, and may end.
  static bool matches(const TokenConstraint& grammar, const std::string& text) {
    const std::vector<int32_t> end = {kEnd};
    const auto state = grammar.start(end);
    const auto ids = tokenizer->encode(text, {.add_special_tokens = false});
    for (const int32_t id : *ids) {
      const bool allowed = allows(mask_of(*state), id);
      EXPECT_EQ(state->accept(id), allowed) << tokenizer->token_bytes(id);
      if (!allowed) return false;
    }
    return allows(mask_of(*state), kEnd);
  }
  static std::shared_ptr<const TokenConstraint> compile(GrammarKind kind, const std::string& text) {
    auto grammar = compiler->compile({kind, text, "field"});
    EXPECT_TRUE(grammar.has_value()) << (grammar ? "" : grammar.error().message);
    return grammar ? *grammar : nullptr;
  }
  static void expect_refused(GrammarKind kind, const std::string& text,
                             ErrorCode code = ErrorCode::kInvalidArgument) {
    const auto grammar = compiler->compile({kind, text, "field"});
    ASSERT_FALSE(grammar.has_value()) << text.substr(0, 200);
    EXPECT_EQ(grammar.error().code, code) << grammar.error().message;
    EXPECT_EQ(grammar.error().param, "field");
    EXPECT_FALSE(grammar.error().message.empty());
    EXPECT_LT(grammar.error().message.size(), 400u);
    EXPECT_TRUE(is_valid_utf8(grammar.error().message)) << grammar.error().message;
  }

  static Tokenizer* tokenizer;
  static GrammarCompiler* compiler;
};
Tokenizer* Grammars::tokenizer = nullptr;
GrammarCompiler* Grammars::compiler = nullptr;

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0},)"
    R"("tags":{"type":"array","items":{"enum":["a","b"]}}},"required":["name","age"]})";

TEST_F(Grammars, EachKindAllowsWhatItDescribesAndNothingElse) {
  const auto person = compile(GrammarKind::kJsonSchema, kPerson);
  EXPECT_TRUE(matches(*person, R"({"name": "Ünïcode 🙂", "age": 3, "tags": ["a", "b"]})"));
  EXPECT_FALSE(matches(*person, R"({"name": "A"})"));
  EXPECT_FALSE(matches(*person, R"({"name": "A", "age": -3})"));
  EXPECT_FALSE(matches(*person, R"({"name": "A", "age": 3, "tags": ["c"]})"));
  EXPECT_FALSE(matches(*person, "Sure! {}"));
  const auto object = compile(GrammarKind::kJsonObject, "");
  EXPECT_TRUE(matches(*object, R"({"a": [1, 2.5e3, null, {"b": "c"}], "d": true})"));
  EXPECT_FALSE(matches(*object, R"([1])"));
  const auto regex = compile(GrammarKind::kRegex, R"([0-9]{3}-[a-f]+)");
  EXPECT_TRUE(matches(*regex, "123-abc"));
  EXPECT_FALSE(matches(*regex, "123-"));
  EXPECT_FALSE(matches(*regex, "123-abz"));
  const auto ebnf = compile(GrammarKind::kEbnf, "root ::= \"yes\" | \"no\" \" \" root");
  EXPECT_TRUE(matches(*ebnf, "no no yes"));
  EXPECT_FALSE(matches(*ebnf, "no yes no"));
  const auto choice =
      compile(GrammarKind::kChoice, choice_grammar({"yes", "a \"b\"\\\n{99999}", "((é🙂"}));
  EXPECT_TRUE(matches(*choice, "yes"));
  EXPECT_TRUE(matches(*choice, "a \"b\"\\\n{99999}"));
  EXPECT_TRUE(matches(*choice, "((é🙂"));
  EXPECT_FALSE(matches(*choice, "yesyes"));
  EXPECT_FALSE(matches(*choice, "((é"));
  const auto tag = compile(
      GrammarKind::kStructuralTag,
      R"({"type":"structural_tag","format":{"type":"tag","begin":"<f>","content":{"type":)"
      R"("json_schema","json_schema":{"type":"object","properties":{"x":{"type":"integer"}},)"
      R"("required":["x"]}},"end":"</f>"}})");
  EXPECT_TRUE(matches(*tag, R"(<f>{"x": 1}</f>)"));
  EXPECT_FALSE(matches(*tag, R"(<f>{"x": "1"}</f>)"));
}

TEST_F(Grammars, ControlTokensAndEndTokensComeOnlyWhereTheOutputMayEnd) {
  const auto regex = compile(GrammarKind::kRegex, "ab?");
  const std::vector<int32_t> end = {kEnd};
  const auto state = regex->start(end);
  EXPECT_FALSE(allows(mask_of(*state), kEnd));
  EXPECT_FALSE(state->accept(kEnd));
  ASSERT_TRUE(state->accept(*tokenizer->token_id("a")));
  EXPECT_TRUE(allows(mask_of(*state), kEnd));
  for (int32_t id = 128000; id < tokenizer->vocab_size(); ++id)
    EXPECT_EQ(allows(mask_of(*state), id), id == kEnd) << id;
  EXPECT_FALSE(state->ended());
  ASSERT_TRUE(state->accept(kEnd));
  EXPECT_TRUE(state->ended());
  std::vector<int32_t> mask(static_cast<size_t>(mask_words(tokenizer->vocab_size())));
  EXPECT_FALSE(state->fill_mask(mask));
  EXPECT_FALSE(state->accept(*tokenizer->token_id("a")));
  const auto endless = regex->start({});
  ASSERT_TRUE(endless->accept(*tokenizer->token_id("a")));
  EXPECT_TRUE(endless->ended()) << "without end tokens it ends as soon as it may";
}

TEST_F(Grammars, MalformedAndExcessiveSourcesAreRefusedQuickly) {
  const auto begin = std::chrono::steady_clock::now();
  using enum GrammarKind;
  for (const char* text :
       {"", "{", "[]", "3", R"({"type": "nonsense"})", R"({"type": 3})", R"({"enum": []})",
        R"({"$ref": "#/nowhere"})", R"({"type": "string", "minLength": 1e9})",
        R"({"type": "string", "pattern": "("})", R"({"type":"string","pattern": "a{1,999999}"})"})
    expect_refused(kJsonSchema, text);
  for (const char* text : {"", "(", "[", "a{2", "*", "a{99999999999999999999}", "(?=a)b", "[z-a]"})
    expect_refused(kRegex, text);
  for (const char* text : {"", "root", "root ::=", "start ::= \"a\"", "root ::= missing",
                           "root ::= \"a\"{1,1000000}", "root ::= root"})
    expect_refused(kEbnf, text);
  for (const char* text : {"b\xf2\xa4\x80\xbe\xc2\x80"
                           "fVy",
                           "root ::= \xc3\xa9", "\xf0\x9f\x99\x82"})
    expect_refused(kEbnf, text);  // whose messages quote single bytes
  for (const char* text : {"", "{}", R"({"type":"structural_tag"})", R"({"format":{"type":"x"}})"})
    expect_refused(kStructuralTag, text);
  expect_refused(kRegex, std::string(100, '(') + std::string(100, ')'));
  expect_refused(kRegex, std::string(1 << 20, 'a'));
  expect_refused(kRegex, std::string("a\0b", 3));
  std::string deep = "{}";
  for (int i = 0; i < 100; ++i) deep = R"({"properties":{"a":)" + deep + "}}";
  expect_refused(kJsonSchema, deep);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST_F(Grammars, WhatCannotBeEnforcedIsRefusedInsteadOfIgnored) {
  for (const char* text :
       {R"({"type":"array","items":{"type":"integer"},"uniqueItems":true})",
        R"({"allOf":[{"type":"object"},{"required":["a"]}]})", R"({"$ref":"http://a.b/c"})",
        R"({"properties":{"a":{"not":{"type":"integer"}}}})",
        // What XGrammar would pass over because of what is, or is not, beside it.
        R"({"pattern":"("})", R"({"minLength":3})", R"({"maximum":3})", R"({"required":["a"]})",
        R"({"minItems":2})", R"({"type":[],"pattern":"a"})",
        R"({"type":"string","enum":["a"],"pattern":"b"})",
        R"({"$ref":"#/$defs/a","minLength":3,"$defs":{"a":{"type":"string"}}})",
        R"({"properties":{"a":{"type":"null"}},"anyOf":[{"type":"object"},{"type":"null"}]})",
        R"({"anyOf":[{"type":"null"}],"oneOf":[{"type":"null"}]})"})
    expect_refused(GrammarKind::kJsonSchema, text, ErrorCode::kUnsupported);
}

TEST_F(Grammars, KeywordsThatAreEnforcedAreNotRefused) {
  const auto names = compile(GrammarKind::kJsonSchema,
                             R"({"type":"object","propertyNames":{"pattern":"^[ab]$"},)"
                             R"("additionalProperties":{"type":"integer"},"minProperties":1})");
  EXPECT_TRUE(matches(*names, R"({"a": 1})"));
  EXPECT_FALSE(matches(*names, R"({"c": 1})"));
  const auto required =
      compile(GrammarKind::kJsonSchema,
              R"({"properties":{"a":{"type":["string","null"],"minLength":2}},"required":["a"]})");
  EXPECT_TRUE(matches(*required, R"({"a": "xy"})"));
  EXPECT_TRUE(matches(*required, R"({"a": null})"));
  EXPECT_FALSE(matches(*required, R"({"a": "x"})"));
  EXPECT_FALSE(matches(*required, R"({})"));
}

TEST_F(Grammars, BlanksAreFreeButNotEndless) {
  for (const auto& grammar :
       {compile(GrammarKind::kJsonSchema, kPerson), compile(GrammarKind::kJsonObject, "")}) {
    EXPECT_TRUE(matches(*grammar, "{\n        \"name\": \"A\",\n        \"age\": 3\n}"));
    EXPECT_FALSE(matches(*grammar, "{" + std::string(200, ' ') + "\"name\": \"A\", \"age\": 3}"));
    EXPECT_FALSE(matches(*grammar, "{\"name\": \"A\", \"age\": 3" + std::string(200, '\n') + "}"));
  }
}

TEST_F(Grammars, AnOutputWhoseMasksTakeLongIsEndedSoon) {
  const auto grammar =
      compile(GrammarKind::kEbnf,
              "root ::= a | b root\na ::= \"x\" [a-z]{1,40} (\"y\" | a)*\nb ::= [^\"]+ a?");
  const std::vector<int32_t> end = {kEnd};
  const auto state = grammar->start(end);
  const int32_t token = *tokenizer->token_id("x");
  std::vector<int32_t> mask(static_cast<size_t>(mask_words(tokenizer->vocab_size())));
  const std::clock_t begin = std::clock();
  int steps = 0;
  while (steps < 400 && state->fill_mask(mask) && state->accept(token)) ++steps;
  // 400 usual masks, what is allowed beyond, and the one that was too much.
  EXPECT_LT(std::clock() - begin, 3 * CLOCKS_PER_SEC) << steps << " tokens";
}

TEST_F(Grammars, NamesAndDataAreNotTakenForKeywords) {
  const auto grammar =
      compile(GrammarKind::kJsonSchema,
              R"({"type":"object","properties":{"not":{"enum":[{"if":1}]}},"required":["not"]})");
  EXPECT_TRUE(matches(*grammar, R"({"not": {"if":1}})"));
}

TEST_F(Grammars, CompiledGrammarsAreSharedAndCompilationsBounded) {
  const auto first = compile(GrammarKind::kJsonSchema, kPerson);
  EXPECT_EQ(first, compile(GrammarKind::kJsonSchema, kPerson));
  GrammarCompiler hurried(*tokenizer, tokenizer->vocab_size(),
                          {.timeout = std::chrono::milliseconds(0), .max_compiling = 1});
  EXPECT_FALSE(hurried.compile({GrammarKind::kJsonSchema, kPerson, "f"}).has_value());
  GrammarCompiler none(*tokenizer, tokenizer->vocab_size(), {.max_compiling = 0});
  const auto refused = none.compile({GrammarKind::kRegex, "a", "f"});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
}

TEST_F(Grammars, CompilationsThatTakeTooLongGiveTheirPlacesBack) {
  std::string members;
  for (int i = 0; i < 100; ++i)
    members += fmt::format(R"({}"member{}":{{"type":"string","pattern":"[a-z]*{}"}})",
                           i == 0 ? "" : ",", i, i);
  const GrammarSource slow{GrammarKind::kJsonSchema,
                           R"({"type":"object","properties":{)" + members + "}}", "slow"};
  const GrammarSource other{GrammarKind::kJsonSchema, kPerson, "other"};
  GrammarCompiler hurried(
      *tokenizer, tokenizer->vocab_size(),
      {.timeout = std::chrono::milliseconds(1), .max_compiling = 1, .max_late = 1});
  const auto first = hurried.compile(slow);
  ASSERT_FALSE(first.has_value());
  EXPECT_EQ(first.error().code, ErrorCode::kInvalidArgument);
  const auto again = hurried.compile(slow);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code, ErrorCode::kInvalidArgument) << "not compiled a second time";
  const auto refused = hurried.compile(other);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(refused.error().param, "other");
  // Once what was late has ended, it is known, and others have its place.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  const auto comes = [&](const GrammarSource& source) {
    while (std::chrono::steady_clock::now() < deadline) {
      if (hurried.compile(source).has_value()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  };
  EXPECT_TRUE(comes(slow));
  EXPECT_TRUE(comes(other));
}

TEST_F(Grammars, ReportsWhatItCosts) {
  const auto now = [] { return std::chrono::steady_clock::now(); };
  const auto us = [](auto d) { return std::chrono::duration<double, std::micro>(d).count(); };
  GrammarCompiler fresh(*tokenizer, tokenizer->vocab_size());
  const auto begin = now();
  const auto grammar = fresh.compile({GrammarKind::kJsonSchema, kPerson, ""});
  const double compile_us = us(now() - begin);
  ASSERT_TRUE(grammar.has_value());
  const std::vector<int32_t> end = {kEnd};
  const auto state = (*grammar)->start(end);
  const auto ids = tokenizer->encode(R"({"name": "A longer name of a person", "age": 41})",
                                     {.add_special_tokens = false});
  std::vector<int32_t> mask(static_cast<size_t>(mask_words(tokenizer->vocab_size())));
  double fill_us = 0, worst_us = 0;
  for (const int32_t id : *ids) {
    const auto start = now();
    ASSERT_TRUE(state->fill_mask(mask));
    const double took = us(now() - start);
    fill_us += took;
    worst_us = std::max(worst_us, took);
    ASSERT_TRUE(state->accept(id));
  }
  std::printf("compile %.1f ms, mask %.1f us mean, %.1f us worst\n", compile_us / 1000,
              fill_us / static_cast<double>(ids->size()), worst_us);
}

}  // namespace
}  // namespace nanoflow
