#include "run_requests.h"

#include <chrono>
#include <memory>
#include <random>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

void append(std::vector<float>& out, const std::vector<TokenLogprob>& entries) {
  for (const TokenLogprob& entry : entries) {
    out.push_back(entry.logprob);
    out.push_back(static_cast<float>(entry.rank));
    for (const TopLogprob& top : entry.top) {
      out.push_back(static_cast<float>(top.token));
      out.push_back(top.logprob);
    }
  }
}

}  // namespace

std::map<RequestId, Output> run_requests(Engine& engine, const std::vector<Request>& requests,
                                         size_t at_once) {
  std::map<RequestId, Output> outputs;
  const auto events = std::make_shared<EventQueue>();
  size_t submitted = 0;
  size_t finished = 0;
  while (finished < requests.size()) {
    while (submitted < requests.size() && submitted - finished < at_once) {
      const auto handle = engine.submit(requests[submitted++], events);
      EXPECT_TRUE(handle.has_value()) << handle.error().message;
    }
    const auto event = events->pop(std::chrono::seconds(60));
    if (!event) {
      ADD_FAILURE() << "the engine hangs";
      break;
    }
    Output& output = outputs[event->request_id];
    output.tokens.insert(output.tokens.end(), event->tokens.begin(), event->tokens.end());
    append(output.logprobs, event->logprobs);
    append(output.prompt_logprobs, event->prompt_logprobs);
    output.finish = event->finish;
    if (event->finish) ++finished;
  }
  return outputs;
}

std::vector<Request> mixed_requests(int count, int64_t max_prompt, int64_t max_output,
                                    int64_t vocab) {
  std::mt19937 random(5);
  const auto below = [&](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(n));
  };
  std::vector<Request> requests;
  for (int i = 1; i <= count; ++i) {
    Request request;
    request.id = static_cast<RequestId>(i);
    const int64_t prompt = 1 + below(max_prompt);
    for (int64_t t = 0; t < prompt; ++t)
      request.prompt.push_back(static_cast<int32_t>(below(vocab)));
    SamplingParams& p = request.sampling;
    p.max_tokens = 1 + below(max_output);
    p.seed = static_cast<uint64_t>(i) * 17;
    p.temperature = i % 2 == 0 ? 0 : 0.9;
    if (i % 3 == 0) p.top_k = 20;
    if (i % 5 == 0) p.top_p = 0.8;
    if (i % 7 == 0) p.min_p = 0.05;
    if (i % 4 == 0) p.repetition_penalty = 1.3;
    if (i % 6 == 0) p.presence_penalty = 0.7, p.frequency_penalty = 0.4;
    if (i % 8 == 0) p.logit_bias = {{9, 3.0F}, {10, -100.0F}};
    if (i % 5 == 1) p.min_tokens = *p.max_tokens / 2;
    if (i % 9 == 0) p.ignore_eos = true;
    p.logprobs = i % 3;
    if (i % 10 == 0) p.prompt_logprobs = 2;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace nanoflow
