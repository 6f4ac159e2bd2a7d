// What a stream tells must be what the whole response tells.
#include "api/stream_chunks.h"

#include <string>
#include <string_view>
#include <vector>

#include "api/vocabulary_test_fixture.h"
#include "base/random.h"

namespace nanoflow {
namespace {

constexpr std::string_view kText = "Grüße, 世界 👩‍👩‍👧! \"quoted\" \\ and a\nline.";

/// The JSON of each event; "[DONE]" is checked to be the last and left out.
std::vector<Json> events_of(std::string_view stream) {
  std::vector<Json> events;
  bool done = false;
  while (!stream.empty()) {
    const size_t end = stream.find("\n\n");
    EXPECT_NE(end, std::string_view::npos);
    std::string_view event = stream.substr(0, end);
    stream.remove_prefix(end + 2);
    EXPECT_TRUE(event.starts_with("data: "));
    event.remove_prefix(6);
    EXPECT_FALSE(done) << "an event behind the end";
    if (event == "[DONE]") {
      done = true;
      continue;
    }
    Result<Json> json = parse_json(event);
    EXPECT_TRUE(json.has_value()) << event;
    if (json.has_value()) events.push_back(std::move(*json));
  }
  EXPECT_TRUE(done);
  return events;
}

class Streaming : public WithVocabulary {
 protected:
  /// Serves `body` with `kText`'s tokens in events of one to three; keeps stream and response.
  void serve(Endpoint endpoint, const Json& body, uint64_t seed) {
    Result<OpenAiRequest> request = parse_openai_request(endpoint, body);
    ASSERT_TRUE(request.has_value()) << request.error().message;
    Result<Completion> completion = Completion::create(model_, *request, "cmpl-1", 1);
    ASSERT_TRUE(completion.has_value()) << completion.error().message;
    StreamChunks chunks(*completion, 7);
    const std::vector<int32_t> tokens =
        model_.tokenizer->encode(text_, {.add_special_tokens = false, .parse_special = true})
            .value();
    SplitMix64 random(seed);
    std::string stream;
    const auto num_choices = static_cast<RequestId>(completion->choices().size());
    for (RequestId id = 1; id <= num_choices; ++id) {
      for (size_t at = 0; at < tokens.size();) {
        TokenEvent event{.request_id = id};
        if (at == 0) {
          const std::vector<int32_t>& prompt = completion->prompts().front().ids;
          for (size_t i = 1; i < prompt.size(); ++i)
            event.prompt_logprobs.push_back({.token = prompt[i], .logprob = -0.5F});
        }
        for (int64_t left = random.between(1, 3); left > 0 && at < tokens.size(); --left, ++at) {
          event.tokens.push_back(tokens[at]);
          if (request->sampling.logprobs >= 0)
            event.logprobs.push_back({.token = tokens[at], .logprob = -0.25F});
        }
        if (at == tokens.size()) event.finish = finish_;
        chunks.append(completion->on_event(event), stream);
      }
    }
    chunks.append_end(stream);
    events_ = events_of(stream);
    response_ = completion->response(7);
  }

  std::string text_ = std::string(kText);
  FinishReason finish_ = FinishReason::kLength;
  std::vector<Json> events_;
  Json response_;
};

Json body_of(std::string_view fields) {
  return parse_json(fields).value();
}

TEST_F(Streaming, CompletionTextAddsUpToTheResponse) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    serve(Endpoint::kCompletions, body_of(R"({"prompt":"Hi","stream":true,"n":2,"echo":true})"),
          seed);
    std::vector<std::string> text(2);
    std::vector<std::string> finish(2);
    for (const Json& event : events_) {
      EXPECT_EQ(event.find("object")->as_string(), "text_completion");
      EXPECT_EQ(event.find("id")->as_string(), "cmpl-1");
      EXPECT_EQ(event.find("usage"), nullptr);
      const Json& choice = event.find("choices")->as_array().at(0);
      const auto index = static_cast<size_t>(choice.find("index")->as_int());
      text[index] += choice.find("text")->as_string();
      EXPECT_EQ(finish[index], "") << "an event behind the last";
      if (choice.find("finish_reason")->is_string())
        finish[index] = choice.find("finish_reason")->as_string();
    }
    EXPECT_EQ(text[0], "Hi" + std::string(kText));
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(text[i], response_.find("choices")->as_array()[i].find("text")->as_string());
      EXPECT_EQ(finish[i], "length");
    }
  }
}

TEST_F(Streaming, ChatSendsTheRoleOnceAndWithTheFirstText) {
  serve(Endpoint::kChatCompletions,
        body_of(R"({"messages":[{"role":"user","content":"Hi"}],"stream":true})"), 1);
  std::string text;
  for (size_t i = 0; i < events_.size(); ++i) {
    EXPECT_EQ(events_[i].find("object")->as_string(), "chat.completion.chunk");
    const Json& delta = *events_[i].find("choices")->as_array().at(0).find("delta");
    EXPECT_EQ(delta.find("role") != nullptr, i == 0);
    if (delta.find("content") != nullptr) text += delta.find("content")->as_string();
  }
  EXPECT_NE(events_.front().find("choices")->as_array()[0].find("delta")->find("content"), nullptr);
  EXPECT_EQ(text, kText);
}

TEST_F(Streaming, LogprobsAndIdsAddUpToTheResponse) {
  serve(Endpoint::kCompletions,
        body_of(R"({"prompt":"Hi you","stream":true,"echo":true,"logprobs":1,
                    "return_token_ids":true})"),
        3);
  Json sums = Json::object();
  Json ids;
  for (const Json& event : events_) {
    const Json& choice = event.find("choices")->as_array().at(0);
    for (const auto& [name, list] : choice.find("logprobs")->as_object()) {
      Json all = sums.find(name) == nullptr ? Json(Json::Array{}) : *sums.find(name);
      for (const Json& item : list.as_array()) all.push_back(item);
      sums.set(name, all);
    }
    for (const Json& id : choice.find("token_ids")->as_array()) ids.push_back(id);
  }
  const Json& whole = response_.find("choices")->as_array().at(0);
  EXPECT_EQ(sums.dump(), whole.find("logprobs")->dump());
  EXPECT_EQ(ids, *whole.find("token_ids"));
  EXPECT_EQ(*events_.front().find("choices")->as_array()[0].find("prompt_token_ids"),
            *whole.find("prompt_token_ids"));

  serve(Endpoint::kChatCompletions,
        body_of(R"({"messages":[{"role":"user","content":"Hi"}],"stream":true,"logprobs":true})"),
        4);
  Json::Array content;
  for (const Json& event : events_) {
    const Json& part = *event.find("choices")->as_array()[0].find("logprobs")->find("content");
    content.insert(content.end(), part.as_array().begin(), part.as_array().end());
  }
  EXPECT_EQ(Json(content),
            *response_.find("choices")->as_array()[0].find("logprobs")->find("content"));
}

TEST_F(Streaming, UsageComesInALastEventWithoutChoicesOrWithEveryEvent) {
  serve(Endpoint::kCompletions,
        body_of(R"({"prompt":"Hi","stream":true,"stream_options":{"include_usage":true}})"), 1);
  for (size_t i = 0; i + 1 < events_.size(); ++i) EXPECT_TRUE(events_[i].find("usage")->is_null());
  EXPECT_TRUE(events_.back().find("choices")->as_array().empty());
  EXPECT_EQ(*events_.back().find("usage"), *response_.find("usage"));

  serve(Endpoint::kCompletions, body_of(R"({"prompt":"Hi","stream":true,
                    "stream_options":{"include_usage":true,"continuous_usage_stats":true}})"),
        1);
  int64_t before = 0;
  for (const Json& event : events_) {
    const int64_t now = event.find("usage")->find("completion_tokens")->as_int();
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_EQ(*events_.back().find("usage"), *response_.find("usage"));
}

TEST_F(Streaming, ToolCallsAddUpToTheResponse) {
  model_.tool_format = ToolFormat::kHermes;
  const std::string call =
      R"(<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>)";
  text_ = "I look.\n" + call + "\n" + call;
  finish_ = FinishReason::kStop;
  const std::string fields =
      R"("messages": [{"role": "user", "content": "Hi"}], "n": 2, "tools": [{"type": "function",)"
      R"( "function": {"name": "weather"}}])";
  for (const uint64_t seed : {1, 2, 3}) {
    serve(Endpoint::kChatCompletions, body_of("{" + fields + "}"), seed);
    for (int64_t index = 0; index < 2; ++index) {
      const Json& choice = response_.find("choices")->as_array()[static_cast<size_t>(index)];
      EXPECT_EQ(choice.find("finish_reason")->as_string(), "tool_calls");
      EXPECT_EQ(choice.find("message")->find("content")->as_string(), "I look.\n");
      std::string content;
      std::string last_reason;
      std::vector<std::string> calls;  // id, name and arguments of each
      for (const Json& event : events_) {
        const Json& part = event.find("choices")->as_array().front();
        if (part.find("index")->as_int() != index) continue;
        if (part.find("finish_reason")->is_string())
          last_reason = part.find("finish_reason")->as_string();
        const Json& delta = *part.find("delta");
        if (const Json* text = delta.find("content")) content += text->as_string();
        const Json* pieces = delta.find("tool_calls");
        if (pieces == nullptr) continue;
        for (const Json& piece : pieces->as_array()) {
          const auto at = static_cast<size_t>(piece.find("index")->as_int());
          const Json& function = *piece.find("function");
          if (at == calls.size())
            calls.push_back(piece.find("id")->as_string() + function.find("name")->as_string());
          calls.at(at) += function.find("arguments")->as_string();
        }
      }
      EXPECT_EQ(content, "I look.\n");
      EXPECT_EQ(last_reason, "tool_calls");
      std::vector<std::string> whole;
      for (const Json& item : choice.find("message")->find("tool_calls")->as_array())
        whole.push_back(item.find("id")->as_string() +
                        item.find("function")->find("name")->as_string() +
                        item.find("function")->find("arguments")->as_string());
      EXPECT_EQ(calls, whole);
      ASSERT_EQ(whole.size(), 2u);
      EXPECT_NE(whole[0], whole[1]) << "ids differ";
      EXPECT_TRUE(whole[0].ends_with(R"(weather{"city":"Zürich"})")) << whole[0];
    }
  }
  serve(Endpoint::kChatCompletions, body_of("{" + fields + R"(, "tool_choice": "none"})"), 1);
  const Json& plain = response_.find("choices")->as_array().front();
  EXPECT_EQ(plain.find("message")->find("content")->as_string(), text_);
  EXPECT_EQ(plain.find("finish_reason")->as_string(), "stop");
}

TEST_F(Streaming, AnErrorEndsTheStreamWithItsBody) {
  std::string out;
  StreamChunks::append_error({ErrorCode::kInternal, "the engine has failed", {}}, out);
  const std::vector<Json> events = events_of(out);
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].find("error")->find("message")->as_string(), "the engine has failed");
  EXPECT_EQ(events[0].find("error")->find("code")->as_int(), 500);
}

}  // namespace
}  // namespace nanoflow
