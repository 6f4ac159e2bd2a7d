// Outputs as models write them, cut at every byte.
#include "api/tool_calls.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

using Calls = std::vector<std::pair<std::string, std::string>>;

struct Read {
  std::string content;
  Calls calls;
  bool operator==(const Read&) const = default;
};

void add(const ToolOutput& out, Read& read) {
  read.content += out.content;
  for (const ToolCallPiece& piece : out.calls) {
    if (piece.begins) {
      EXPECT_EQ(piece.index, static_cast<int64_t>(read.calls.size()));
      read.calls.emplace_back(piece.name, "");
    }
    ASSERT_EQ(piece.index + 1, static_cast<int64_t>(read.calls.size()));
    read.calls.back().second += piece.arguments;
  }
}

Read read_pieces(ToolCallParser parser, const std::vector<std::string_view>& pieces) {
  Read read;
  for (const std::string_view piece : pieces) add(parser.push(piece), read);
  add(parser.finish(), read);
  return read;
}

/// The output, whole; and the same when it is cut in two anywhere, and into single bytes.
void expect_read(const ToolCallParser& parser, const std::string& text, const Read& want) {
  const std::string_view view = text;
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i <= view.size(); ++i) {
    const Read got = read_pieces(parser, {view.substr(0, i), view.substr(i)});
    EXPECT_EQ(got.content, want.content) << text << " cut at " << i;
    EXPECT_EQ(got.calls, want.calls) << text << " cut at " << i;
    if (i < view.size()) bytes.push_back(view.substr(i, 1));
  }
  EXPECT_EQ(read_pieces(parser, bytes), want) << text;
}

const std::string kWeather = R"({"city":"Paris","why":"\"}]</tool_call> ü"})";

TEST(ToolCalls, Hermes) {
  const ToolCallParser parser(ToolFormat::kHermes);
  const std::string call =
      "<tool_call>\n{\"name\": \"weather\", \"arguments\": " + kWeather + "}\n</tool_call>";
  expect_read(parser, call, {"", {{"weather", kWeather}}});
  expect_read(parser, "I look.\n" + call + "\n" + call + "\n",
              {"I look.\n", {{"weather", kWeather}, {"weather", kWeather}}});
  expect_read(parser, call + "\nDone <tool_", {"Done <tool_", {{"weather", kWeather}}});
  expect_read(parser, R"(<tool_call>{"name":"f","arguments":{}})", {"", {{"f", "{}"}}});
  expect_read(parser, R"(<tool_call>{"name":"f"}</tool_call>)", {"", {{"f", "{}"}}});
  expect_read(parser, R"(<tool_call>{"name":"f","arguments":"{\"a\":1}"}</tool_call>)",
              {"", {{"f", R"({"a":1})"}}});
}

TEST(ToolCalls, Llama) {
  const ToolCallParser parser(ToolFormat::kLlama);
  const std::string call = R"({"name": "weather", "parameters": )" + kWeather + "}";
  expect_read(parser, call, {"", {{"weather", kWeather}}});
  expect_read(parser, "<|python_tag|>" + call, {"", {{"weather", kWeather}}});
  expect_read(parser, call + "; " + call, {"", {{"weather", kWeather}, {"weather", kWeather}}});
  for (const char* text : {"Paris {\"name\": \"f\"}", "<|python_tag|>print(1)", "<|python_", " ",
                           R"({"answer": 42} and more)", R"({"name": "f", "parameters": {)"})
    expect_read(parser, text, {text, {}});
}

TEST(ToolCalls, Mistral) {
  const ToolCallParser parser(ToolFormat::kMistral);
  const std::string item = R"({"name": "weather", "arguments": )" + kWeather + "}";
  expect_read(parser, "[TOOL_CALLS][" + item + "]", {"", {{"weather", kWeather}}});
  expect_read(parser, "So: [TOOL_CALLS] [" + item + ", " + item + "]",
              {"So: ", {{"weather", kWeather}, {"weather", kWeather}}});
  expect_read(parser, "[TOOL_CALLS]weather" + kWeather, {"", {{"weather", kWeather}}});
  expect_read(parser, "[TOOL_CALLS]weather[ARGS]" + kWeather + "[TOOL_CALLS]g[ARGS]{}",
              {"", {{"weather", kWeather}, {"g", "{}"}}});
}

TEST(ToolCalls, WhatIsNoCallIsContent) {
  for (const auto& [format, text] : std::vector<std::pair<ToolFormat, std::string>>{
           {ToolFormat::kHermes, "<tool_call>\nhello</tool_call>"},
           {ToolFormat::kHermes, "<tool_call>{\"name\": }</tool_call>"},
           {ToolFormat::kHermes, "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call> x"},
           {ToolFormat::kHermes, "a <tool_call>{\"name\": \"f\", \"argum"},
           {ToolFormat::kHermes, "<tool_call>{\"name\": 3}<tool_call>"},
           {ToolFormat::kMistral, "[TOOL_CALLS]"},
           {ToolFormat::kMistral, "[TOOL_CALLS][{\"name\": \"f\"}, 3]"},
           {ToolFormat::kMistral, "[TOOL_CALLS]f[ARGS]3"},
           {ToolFormat::kMistral, "[TOOL_CALLS]f{\"a\": tru}"},
           {ToolFormat::kCallList, "[{\"name\": \"f\", \"par"}})
    expect_read(ToolCallParser(format), text, {text, {}});
  const std::string blanks(1000, ' ');
  expect_read(ToolCallParser(ToolFormat::kLlama), blanks + "{", {blanks + "{", {}});
  for (const std::string& before : {blanks, std::string(1000, 'f'), "f" + blanks}) {
    const std::string text = "[TOOL_CALLS]" + before + "{}";
    expect_read(ToolCallParser(ToolFormat::kMistral), text, {text, {}});
  }
}

TEST(ToolCalls, FormsThatAGrammarEnforces) {
  const std::string item = R"({"name": "weather", "parameters": )" + kWeather + "}";
  expect_read(ToolCallParser(ToolFormat::kCallList), " [ " + item + " ,\n" + item + " ] ",
              {"", {{"weather", kWeather}, {"weather", kWeather}}});
  expect_read(ToolCallParser(ToolFormat::kCallList), "[" + item + ", {\"na",
              {", {\"na", {{"weather", kWeather}}});
  expect_read(ToolCallParser(ToolFormat::kArguments, "f"), kWeather, {"", {{"f", kWeather}}});
  expect_read(ToolCallParser(ToolFormat::kCallList, "", false), "[" + item + "," + item + "]",
              {"", {{"weather", kWeather}}});
}

TEST(ToolCalls, FormatsHaveNamesAndAreKnownByTheirTemplates) {
  EXPECT_EQ(tool_format_of_name("hermes"), ToolFormat::kHermes);
  EXPECT_EQ(tool_format_of_name("llama3_json"), ToolFormat::kLlama);
  EXPECT_EQ(tool_format_of_name("mistral"), ToolFormat::kMistral);
  EXPECT_EQ(tool_format_of_name(""), std::nullopt);
  EXPECT_EQ(tool_format_of_template("... <tool_call></tool_call> XML tags"), ToolFormat::kHermes);
  EXPECT_EQ(tool_format_of_template("{{ '[TOOL_CALLS] [' }}"), ToolFormat::kMistral);
  EXPECT_EQ(tool_format_of_template("{{- '<|python_tag|>' }}"), ToolFormat::kLlama);
  EXPECT_EQ(tool_format_of_template("{{ messages }}"), std::nullopt);
}

}  // namespace
}  // namespace nanoflow
