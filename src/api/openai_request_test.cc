#include "api/openai_request.h"

#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace nanoflow {
namespace {

constexpr auto kText = Endpoint::kCompletions;
constexpr auto kChat = Endpoint::kChatCompletions;

Result<OpenAiRequest> parse(Endpoint endpoint, const std::string& text,
                            const SamplingDefaults& defaults = {}) {
  const Result<Json> body = parse_json(text);
  EXPECT_TRUE(body.has_value()) << text;
  return parse_openai_request(endpoint, *body, defaults);
}

/// A valid body with these members beside its prompt or messages.
std::string body(Endpoint endpoint, std::string_view members) {
  return fmt::format(
      "{{{}, {}}}",
      endpoint == kText ? R"("prompt": "p")" : R"("messages": [{"role": "user", "content": "c"}])",
      members);
}

OpenAiRequest accept(Endpoint endpoint, std::string_view members) {
  auto request = parse(endpoint, body(endpoint, members));
  EXPECT_TRUE(request.has_value()) << members << ": " << request.error().message;
  return request.has_value() ? std::move(*request) : OpenAiRequest{};
}

void refuse_body(Endpoint endpoint, const std::string& text, std::string_view param,
                 ErrorCode code = ErrorCode::kInvalidArgument) {
  const auto request = parse(endpoint, text);
  ASSERT_FALSE(request.has_value()) << text.substr(0, 200);
  EXPECT_EQ(request.error().param, param) << text.substr(0, 200);
  EXPECT_EQ(request.error().code, code) << text.substr(0, 200);
  EXPECT_FALSE(request.error().message.empty());
}

void refuse(Endpoint endpoint, std::string_view members, std::string_view param,
            ErrorCode code = ErrorCode::kInvalidArgument) {
  refuse_body(endpoint, body(endpoint, members), param, code);
}

/// Each of `values` for `key` is refused on both endpoints, naming the key.
void refuse_values(const std::string& key, std::initializer_list<const char*> values) {
  for (const Endpoint endpoint : {kText, kChat})
    for (const char* value : values) refuse(endpoint, fmt::format("\"{}\": {}", key, value), key);
}

TEST(OpenAiRequest, DefaultsAreTheEndpoints) {
  const OpenAiRequest text = accept(kText, "\"x\": null");
  EXPECT_EQ(text.sampling.max_tokens, 16);
  EXPECT_EQ(text.sampling.temperature, 1);
  EXPECT_EQ(text.sampling.logprobs, -1);
  EXPECT_EQ(text.n, 1);
  EXPECT_FALSE(text.stream || text.echo || text.sampling.seed.has_value());
  const OpenAiRequest chat = accept(kChat, "\"x\": null");
  EXPECT_FALSE(chat.sampling.max_tokens.has_value());
  EXPECT_TRUE(chat.add_generation_prompt && chat.skip_special_tokens);
}

TEST(OpenAiRequest, TheCheckpointsDefaultsYieldToTheBody) {
  SamplingDefaults defaults;
  defaults.temperature = 0.5;
  defaults.top_k = 20;
  defaults.completion_max_tokens = 99;
  const auto kept = parse(kText, body(kText, "\"x\": null"), defaults);
  EXPECT_EQ(kept->sampling.temperature, 0.5);
  EXPECT_EQ(kept->sampling.top_k, 20);
  EXPECT_EQ(kept->sampling.max_tokens, 99);
  const auto set =
      parse(kText, body(kText, R"("temperature": 0, "top_k": -1, "max_tokens": 1)"), defaults);
  EXPECT_EQ(set->sampling.temperature, 0);
  EXPECT_EQ(set->sampling.top_k, 0);
  EXPECT_EQ(set->sampling.max_tokens, 1);
}

TEST(OpenAiRequest, NullIsAbsent) {
  const OpenAiRequest request = accept(
      kText, R"("max_tokens": null, "temperature": null, "stop": null, "logprobs": null, "n": null,
               "seed": null, "logit_bias": null, "stream": null, "stream_options": null,
               "response_format": null, "suffix": null, "best_of": null, "top_p": null)");
  EXPECT_EQ(request.sampling.max_tokens, 16);
  EXPECT_EQ(request.sampling.logprobs, -1);
}

TEST(OpenAiRequest, TheBodyIsAnObject) {
  for (const char* text : {"[]", "7", "null", "\"x\""}) refuse_body(kText, text, "");
}

TEST(OpenAiRequest, PromptsOfAllFourForms) {
  const auto prompts = [](const char* value) {
    return parse(kText, fmt::format("{{\"prompt\": {}}}", value))->prompts;
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(prompts("\"a\""), (std::vector<Prompt>{"a"}));
  EXPECT_EQ(prompts("[\"a\", \"b\"]"), (std::vector<Prompt>{"a", "b"}));
  EXPECT_EQ(prompts("[1, 2.0, 2147483647]"), (std::vector<Prompt>{Ids{1, 2, 2147483647}}));
  EXPECT_EQ(prompts("[[1], [2, 3]]"), (std::vector<Prompt>{Ids{1}, Ids{2, 3}}));
}

TEST(OpenAiRequest, BadPrompts) {
  refuse_body(kText, "{}", "prompt");
  for (const char* value : {"null", "7", "true", "{}", "[]", "[null]", "[1, \"a\"]", "[\"a\", 1]",
                            "[\"a\", [1]]", "[[1], \"a\"]", "[[1], 2]", "[-1]", "[1.5]",
                            "[2147483648]", "[[\"a\"]]", "[[-1]]", "[[[1]]]", "[{}]", "[true]"})
    refuse_body(kText, fmt::format("{{\"prompt\": {}}}", value), "prompt");
  std::string many = "[\"p\"";
  for (int i = 0; i < 1024; ++i) many += ",\"p\"";
  refuse_body(kText, fmt::format("{{\"prompt\": {}]}}", many), "prompt");
}

TEST(OpenAiRequest, BadMessages) {
  refuse_body(kChat, "{}", "messages");
  for (const char* value : {"null", "[]", "{}", "\"hi\"", "7"})
    refuse_body(kChat, fmt::format("{{\"messages\": {}}}", value), "messages");
}

TEST(OpenAiRequest, ChatExtras) {
  const OpenAiRequest request = accept(
      kChat, R"("tools": [{"type": "function", "function": {"name": "f"}}], "documents": [{}],
                      "chat_template_kwargs": {"enable_thinking": false}, "tool_choice": "auto")");
  EXPECT_EQ(request.tools.tools.as_array().size(), 1u);
  EXPECT_EQ(request.documents.as_array().size(), 1u);
  EXPECT_FALSE(request.template_kwargs.find("enable_thinking")->as_bool());
  for (const char* key : {"tools", "documents"})
    for (const char* value : {"{}", "7", "\"x\""})
      refuse(kChat, fmt::format("\"{}\": {}", key, value), key);
  for (const char* value : {"[]", "7", "\"x\""})
    refuse(kChat, fmt::format("\"chat_template_kwargs\": {}", value), "chat_template_kwargs");
  refuse(kChat, "\"add_generation_prompt\": 1", "add_generation_prompt");
  refuse(kChat, "\"continue_final_message\": 1", "continue_final_message");
  refuse(kChat, "\"parse_special_in_messages\": 1", "parse_special_in_messages");
  EXPECT_TRUE(accept(kChat, "\"parse_special_in_messages\": true").parse_special_in_messages);
}

TEST(OpenAiRequest, ContinuingExcludesAGenerationPrompt) {
  EXPECT_FALSE(accept(kChat, "\"continue_final_message\": true").add_generation_prompt);
  accept(kChat, "\"continue_final_message\": true, \"add_generation_prompt\": false");
  refuse(kChat, "\"continue_final_message\": true, \"add_generation_prompt\": true",
         "continue_final_message");
}

TEST(OpenAiRequest, NumbersInTheirRanges) {
  const SamplingParams s =
      accept(kText, R"("temperature": 0, "top_p": 1, "top_k": 5, "min_p": 0.1, "n": 128,
        "repetition_penalty": 1.5, "presence_penalty": -2, "frequency_penalty": 2, "seed": -1,
        "min_tokens": 3, "max_tokens": 3.0, "priority": -5, "ignore_eos": true)")
          .sampling;
  EXPECT_EQ(s.temperature, 0);
  EXPECT_EQ(s.top_p, 1);
  EXPECT_EQ(s.top_k, 5);
  EXPECT_EQ(s.min_p, 0.1);
  EXPECT_EQ(s.repetition_penalty, 1.5);
  EXPECT_EQ(s.presence_penalty, -2);
  EXPECT_EQ(s.frequency_penalty, 2);
  EXPECT_EQ(s.seed, ~uint64_t{0});
  EXPECT_EQ(s.min_tokens, 3);
  EXPECT_EQ(s.max_tokens, 3);
  EXPECT_EQ(s.priority, -5);
  EXPECT_TRUE(s.ignore_eos);
}

TEST(OpenAiRequest, NumbersOutOfTheirRanges) {
  refuse_values("temperature", {"-0.1", "101", "\"1\"", "true", "[]", "{}"});
  refuse_values("top_p", {"0", "-1", "1.1", "\"x\""});
  refuse_values("top_k", {"-2", "1.5", "3000000000", "\"1\""});
  refuse_values("min_p", {"-0.1", "1.1", "\"x\""});
  refuse_values("repetition_penalty", {"0", "-1", "1e9", "\"x\""});
  refuse_values("presence_penalty", {"-2.1", "2.1", "\"x\""});
  refuse_values("frequency_penalty", {"-2.1", "2.1", "\"x\""});
  refuse_values("max_tokens", {"-1", "0", "1.5", "\"7\"", "99999999999", "[]"});
  refuse_values("min_tokens", {"-1", "1.5", "\"x\""});
  refuse_values("n", {"0", "-1", "129", "1.5", "\"1\"", "99999999999999999"});
  refuse_values("seed", {"1.5", "\"x\"", "18446744073709551615", "1e300"});
  refuse_values("priority", {"1.5", "\"x\"", "99999999999"});
  refuse_values("truncate_prompt_tokens", {"0", "-1", "\"x\""});
  refuse_values("prompt_logprobs", {"-1", "21", "\"1\"", "true"});
}

TEST(OpenAiRequest, FlagsAreBooleans) {
  for (const char* key :
       {"stream", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
        "return_token_ids", "return_tokens_as_token_ids", "add_special_tokens"}) {
    refuse_values(key, {"1", "\"true\"", "[]", "{}"});
    accept(kText, fmt::format("\"{}\": true", key));
    accept(kChat, fmt::format("\"{}\": false", key));
  }
  refuse(kText, "\"echo\": 1", "echo");
  EXPECT_EQ(accept(kText, "\"add_special_tokens\": false").add_special_tokens, false);
  EXPECT_EQ(accept(kText, "\"x\": null").add_special_tokens, std::nullopt);
  refuse_values("model", {"7", "[]", "true"});
}

TEST(OpenAiRequest, MaxTokensOfChatHasTwoNames) {
  EXPECT_EQ(accept(kChat, "\"max_tokens\": 5").sampling.max_tokens, 5);
  EXPECT_EQ(accept(kChat, "\"max_tokens\": 5, \"max_completion_tokens\": 6").sampling.max_tokens,
            6);
  refuse(kChat, "\"max_completion_tokens\": 0", "max_completion_tokens");
  refuse(kChat, "\"max_completion_tokens\": \"x\"", "max_completion_tokens");
}

TEST(OpenAiRequest, ScoringIsEchoWithoutOutput) {
  EXPECT_EQ(accept(kText, "\"max_tokens\": 0, \"echo\": true").sampling.max_tokens, 0);
  refuse(kText, "\"max_tokens\": 0", "max_tokens");
  refuse(kText, "\"max_tokens\": 0, \"echo\": false", "max_tokens");
  refuse(kText, "\"max_tokens\": 4, \"min_tokens\": 5", "min_tokens");
  refuse(kText, "\"min_tokens\": 17", "min_tokens");  // the default is 16
  accept(kChat, "\"min_tokens\": 17");
}

TEST(OpenAiRequest, Logprobs) {
  EXPECT_EQ(accept(kText, "\"logprobs\": 0").sampling.logprobs, 0);
  EXPECT_EQ(accept(kText, "\"logprobs\": 20").sampling.logprobs, 20);
  for (const char* value : {"-1", "21", "\"5\"", "true", "1.5"})
    refuse(kText, fmt::format("\"logprobs\": {}", value), "logprobs");
  EXPECT_EQ(accept(kChat, "\"logprobs\": true").sampling.logprobs, 0);
  EXPECT_EQ(accept(kChat, "\"logprobs\": true, \"top_logprobs\": 5").sampling.logprobs, 5);
  EXPECT_EQ(accept(kChat, "\"logprobs\": false, \"top_logprobs\": 0").sampling.logprobs, -1);
  for (const char* value : {"5", "\"true\""})
    refuse(kChat, fmt::format("\"logprobs\": {}", value), "logprobs");
  for (const char* value : {"-1", "21", "\"5\""})
    refuse(kChat, fmt::format("\"logprobs\": true, \"top_logprobs\": {}", value), "top_logprobs");
  refuse(kChat, "\"top_logprobs\": 5", "top_logprobs");
}

TEST(OpenAiRequest, StreamOptions) {
  const OpenAiRequest request =
      accept(kText, R"("stream": true, "stream_options": {"include_usage": true,
               "continuous_usage_stats": true})");
  EXPECT_TRUE(request.stream && request.include_usage && request.continuous_usage_stats);
  for (const Endpoint endpoint : {kText, kChat}) {
    refuse(endpoint, "\"stream_options\": {}", "stream_options");
    refuse(endpoint, "\"stream\": false, \"stream_options\": {}", "stream_options");
    refuse(endpoint, "\"stream\": true, \"stream_options\": []", "stream_options");
    refuse(endpoint, "\"stream\": true, \"stream_options\": {\"include_usage\": 1}",
           "stream_options.include_usage");
    refuse(endpoint, R"("stream": true, "stream_options": {"later": 1})", "stream_options.later");
    refuse(endpoint, "\"stream\": true, \"prompt_logprobs\": 1", "prompt_logprobs");
  }
}

TEST(OpenAiRequest, StopStrings) {
  EXPECT_EQ(accept(kText, "\"stop\": \"x\"").stop, std::vector<std::string>{"x"});
  EXPECT_EQ(accept(kChat, "\"stop\": [\"x\", \"yz\"]").stop, (std::vector<std::string>{"x", "yz"}));
  EXPECT_TRUE(accept(kText, "\"stop\": []").stop.empty());
  refuse_values("stop", {"7", "{}", "[7]", "[null]", "\"\"", "[\"x\", \"\"]", "[[\"x\"]]"});
  std::string many = "[\"s\"";
  for (int i = 0; i < 64; ++i) many += ",\"s\"";
  refuse_values("stop", {(many + "]").c_str()});
}

TEST(OpenAiRequest, StopTokenIds) {
  EXPECT_EQ(accept(kText, "\"stop_token_ids\": [0, 5]").sampling.stop_token_ids,
            (std::vector<int32_t>{0, 5}));
  refuse_values("stop_token_ids", {"7", "[-1]", "[1.5]", "[\"1\"]", "[2147483648]", "{}"});
}

TEST(OpenAiRequest, LogitBias) {
  using Bias = std::vector<std::pair<int32_t, float>>;
  EXPECT_EQ(accept(kText, R"("logit_bias": {"5": -100, "0": 1.5})").sampling.logit_bias,
            (Bias{{0, 1.5f}, {5, -100.0f}}));
  // The same token twice: the last one counts, as with any repeated key.
  EXPECT_EQ(accept(kText, R"("logit_bias": {"5": 1, "05": 2})").sampling.logit_bias,
            (Bias{{5, 2.0f}}));
  refuse_values("logit_bias", {"7", "[]", R"({"x": 1})", R"({"": 1})", R"({"-1": 1})",
                               R"({"1.0": 1})", R"({"2147483648": 1})", R"({"1": 101})",
                               R"({"1": -100.5})", R"({"1": "1"})", R"({"1": null})"});
}

TEST(OpenAiRequest, WhatCannotBeServedIsRefusedNotIgnored) {
  for (const Endpoint endpoint : {kText, kChat}) {
    for (const char* key : {"suffix"})
      refuse(endpoint, fmt::format("\"{}\": \"x\"", key), key, ErrorCode::kUnsupported);
    refuse(endpoint, R"("bad_words": ["x"])", "bad_words", ErrorCode::kUnsupported);
    refuse(endpoint, "\"allowed_token_ids\": [1]", "allowed_token_ids", ErrorCode::kUnsupported);
    refuse(endpoint, "\"use_beam_search\": true", "use_beam_search", ErrorCode::kUnsupported);
    refuse(endpoint, "\"best_of\": 2", "best_of", ErrorCode::kUnsupported);
    for (const char* choice : {"\"required\"", R"({"type": "function"})", "7"})
      refuse(endpoint, fmt::format("\"tool_choice\": {}", choice), "tool_choice",
             endpoint == kText ? ErrorCode::kUnsupported : ErrorCode::kInvalidArgument);
    accept(endpoint, R"("suffix": "", "bad_words": [], "use_beam_search": false, "best_of": 2,
                        "n": 2, "response_format": {"type": "text"}, "tool_choice": "none")");
  }
}

TEST(OpenAiRequest, UnknownFieldsAreRefused) {
  for (const Endpoint endpoint : {kText, kChat}) {
    refuse(endpoint, "\"temprature\": 0", "temprature");
    accept(endpoint, "\"temprature\": null");
    accept(endpoint, R"("user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto",
                        "request_id": "r", "parallel_tool_calls": true)");
  }
  refuse(kChat, "\"echo\": true", "echo");
  refuse(kChat, "\"prompt\": \"x\"", "prompt");
  refuse(kText, "\"messages\": []", "messages");
  accept(kChat, "\"max_tokens\": 3, \"max_completion_tokens\": 3");
  // Every field of both endpoints, so that none is refused for not being read.
  accept(kText, R"("model": "m", "echo": true, "logprobs": 1, "max_tokens": 1, "seed": 1,
                   "suffix": "", "best_of": 1, "add_special_tokens": true, "user": "u",
                   "truncate_prompt_tokens": 3, "stream": true, "stream_options": {}, "n": 1)");
  accept(kChat, R"("model": "m", "logprobs": true, "top_logprobs": 1, "tools": [],
                   "documents": [], "chat_template_kwargs": {}, "add_generation_prompt": true,
                   "continue_final_message": false, "parse_special_in_messages": true,
                   "response_format": {"type": "text"}, "tool_choice": "none")");
}

TEST(OpenAiRequest, UnknownFieldsAreNamedWhereAllowed) {
  RequestLimits limits;
  limits.allow_unknown_fields = true;
  const Json body =
      Json::object({{"prompt", "p"}, {"answer", 1}, {"level", "x"}, {"none", nullptr}});
  const Result<OpenAiRequest> request = parse_openai_request(kText, body, {}, limits);
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->unknown_fields, (std::vector<std::string>{"answer", "level"}));
}

TEST(OpenAiRequest, TheFirstErrorIsToldWithItsField) {
  const auto request = parse(kText, body(kText, R"("temperature": -1, "n": 0)"));
  EXPECT_EQ(request.error().message, "temperature: must be between 0 and 100, got -1");
  EXPECT_EQ(parse(kText, body(kText, "\"n\": 0")).error().message,
            "n: must be between 1 and 128, got 0");
  EXPECT_EQ(parse(kText, body(kText, "\"max_tokens\": \"x\"")).error().message,
            "max_tokens: must be an integer, not string");
}

}  // namespace
}  // namespace nanoflow
