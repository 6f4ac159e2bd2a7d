// Response bodies of requests by token ids: what they hold without any tokenizer.
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api/completion.h"

namespace nanoflow {
namespace {

class ResponseTest : public testing::Test {
 protected:
  void SetUp() override {
    model_.name = "tiny";
    model_.limits.vocab_size = 100;
  }
  /// The response when every choice of `body` gets `tokens`.
  Json response(const Json& body, const std::vector<int32_t>& tokens) {
    const Result<OpenAiRequest> request = parse_openai_request(Endpoint::kCompletions, body);
    EXPECT_TRUE(request.has_value()) << request.error().message;
    Result<Completion> completion = Completion::create(model_, *request, "cmpl-1", 10);
    EXPECT_TRUE(completion.has_value()) << completion.error().message;
    for (const Choice& choice : completion->choices()) {
      TokenEvent event{.request_id = choice.request_id, .tokens = tokens};
      for (const int32_t id : tokens)
        event.logprobs.push_back({.token = id, .logprob = -1, .rank = 3, .top = {{9, -0.5f}}});
      for (size_t i = 1; i < completion->prompts()[choice.prompt].ids.size(); ++i)
        event.prompt_logprobs.push_back({.token = 4, .logprob = -2, .rank = 0, .top = {{4, -2}}});
      event.finish = FinishReason::kLength;
      EXPECT_TRUE(completion->on_event(event).finished);
    }
    EXPECT_TRUE(completion->done());
    return completion->response(1234);
  }
  TextModel model_;
};

TEST_F(ResponseTest, OneChoicePerPromptAndN) {
  const Json body = response(
      *parse_json(R"({"prompt": [[1, 2], [3]], "n": 2, "return_token_ids": true})"), {5, 6});
  EXPECT_EQ(body.find("id")->as_string(), "cmpl-1");
  EXPECT_EQ(body.find("object")->as_string(), "text_completion");
  EXPECT_EQ(body.find("created")->as_int(), 1234);
  EXPECT_EQ(body.find("model")->as_string(), "tiny");
  EXPECT_EQ(body.find("usage")->dump(),
            R"({"prompt_tokens":3,"completion_tokens":8,"total_tokens":11})");
  const Json::Array& choices = body.find("choices")->as_array();
  ASSERT_EQ(choices.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(choices[i].find("index")->as_int(), static_cast<int64_t>(i));
    EXPECT_EQ(choices[i].find("token_ids")->dump(), "[5,6]");
    EXPECT_EQ(choices[i].find("prompt_token_ids")->dump(), i < 2 ? "[1,2]" : "[3]");
    EXPECT_EQ(choices[i].find("finish_reason")->as_string(), "length");
    EXPECT_TRUE(choices[i].find("logprobs")->is_null());
  }
}

TEST_F(ResponseTest, LogprobsNameTokensByIdAndHoldTheChosenOne) {
  const Json body =
      response(*parse_json(R"({"prompt": [1, 2, 3], "logprobs": 1, "echo": true})"), {5});
  EXPECT_EQ(body.find("choices")->as_array().front().find("logprobs")->dump(),
            R"({"text_offset":[0,0,0,0],"token_logprobs":[null,-2.0,-2.0,-1.0],)"
            R"("tokens":["token_id:1","token_id:4","token_id:4","token_id:5"],)"
            R"("top_logprobs":[null,{"token_id:4":-2.0},{"token_id:4":-2.0},)"
            R"({"token_id:9":-0.5,"token_id:5":-1.0}]})");
}

TEST_F(ResponseTest, PromptLogprobsCarryRanksFromOne) {
  const Json body = response(*parse_json(R"({"prompt": [1, 2], "prompt_logprobs": 1})"), {5});
  EXPECT_EQ(body.find("choices")->as_array().front().find("prompt_logprobs")->dump(),
            R"([null,{"4":{"logprob":-2.0,"rank":1,"decoded_token":"token_id:4"}}])");
}

TEST(ErrorBody, EachCodeHasItsStatus) {
  const auto status = [](ErrorCode code) {
    int number = 0;
    const Json body = error_body({code, "why", "field"}, &number);
    EXPECT_EQ(body.find("error")->find("message")->as_string(), "why");
    EXPECT_EQ(body.find("error")->find("param")->as_string(), "field");
    return number;
  };
  EXPECT_EQ(status(ErrorCode::kInvalidArgument), 400);
  EXPECT_EQ(status(ErrorCode::kUnsupported), 400);
  EXPECT_EQ(status(ErrorCode::kContextTooLong), 400);
  EXPECT_EQ(status(ErrorCode::kNotFound), 404);
  EXPECT_EQ(status(ErrorCode::kResourceExhausted), 503);
  EXPECT_EQ(status(ErrorCode::kCancelled), 499);
  EXPECT_EQ(status(ErrorCode::kInternal), 500);
  EXPECT_EQ(error_body({ErrorCode::kContextTooLong, "why", ""}).find("error")->dump(),
            R"({"message":"why","type":"BadRequestError","param":null,)"
            R"("code":"context_length_exceeded"})");
}

}  // namespace
}  // namespace nanoflow
