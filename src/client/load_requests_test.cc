// Bodies that a load test sends.
#include "client/load_requests.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

Json body_of(const LoadRequest& request) {
  return *parse_json(request.body);
}

TEST(LoadRequests, RandomPromptsAreIdsOfTheVocabulary) {
  LoadRequestOptions options{.model = "m", .num_prompts = 20, .input_len = 50, .output_len = 7};
  options.vocab_size = 2500;
  options.ignore_eos = true;
  options.extra_body = *parse_json(R"({"top_k": 3})");
  const std::vector<LoadRequest> requests = make_load_requests(options);
  ASSERT_EQ(requests.size(), 20u);
  const Json body = body_of(requests[0]);
  ASSERT_EQ(body.find("prompt")->as_array().size(), 50u);
  for (const Json& id : body.find("prompt")->as_array()) {
    EXPECT_GE(id.as_int(), 1000);
    EXPECT_LT(id.as_int(), 2500);
  }
  EXPECT_EQ(requests[0].prompt_tokens, 50);
  EXPECT_EQ(body.find("max_tokens")->as_int(), 7);
  EXPECT_EQ(body.find("top_k")->as_int(), 3);
  EXPECT_TRUE(body.find("ignore_eos")->as_bool());
  EXPECT_TRUE(body.find("stream")->as_bool());
  EXPECT_EQ(body.find("temperature"), nullptr);
  EXPECT_EQ(make_load_requests(options)[3].body, requests[3].body) << "same seed, same requests";
  EXPECT_NE(requests[0].body, requests[1].body);
}

TEST(LoadRequests, ChatsGetMessages) {
  const LoadRequestOptions options{.is_chat = true, .num_prompts = 1, .input_len = 4};
  const Json body = body_of(make_load_requests(options)[0]);
  EXPECT_EQ(body.find("messages")->as_array().size(), 1u);
  EXPECT_EQ(body.find("prompt"), nullptr);
  EXPECT_EQ(body.find("max_completion_tokens")->as_int(), 128);
}

TEST(LoadRequests, FilesStartOverAndFitEitherEndpoint) {
  const TestFolder folder;
  const auto path = folder.path() / "prompts.jsonl";
  write_file_atomically(path,
                        "{\"prompt\": \"one\", \"max_tokens\": 5}\nnonsense\n"
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"two\"}]}\n");
  LoadRequestOptions options{.dataset = "custom", .path = path, .num_prompts = 5};
  std::vector<LoadRequest> requests = make_load_requests(options);
  ASSERT_EQ(requests.size(), 5u);
  EXPECT_EQ(body_of(requests[0]).find("prompt")->as_string(), "one");
  EXPECT_EQ(body_of(requests[0]).find("max_tokens")->as_int(), 5);
  EXPECT_EQ(body_of(requests[1]).find("prompt")->as_string(), "two");
  EXPECT_EQ(body_of(requests[1]).find("max_tokens")->as_int(), 256);
  EXPECT_EQ(requests[4].body, requests[0].body);
  options.is_chat = true;
  requests = make_load_requests(options);
  const Json chat = body_of(requests[0]);
  const Json& message = chat.find("messages")->as_array()[0];
  EXPECT_EQ(message.find("content")->as_string(), "one");
}

TEST(LoadRequests, WhatCannotBeMadeIsNamed) {
  EXPECT_THROW((void)make_load_requests({.dataset = "custom"}), ConfigError);
  EXPECT_THROW((void)make_load_requests({.dataset = "trace"}), ConfigError);
  EXPECT_THROW((void)make_load_requests({.vocab_size = 1}), ConfigError);
}

}  // namespace
}  // namespace nanoflow
