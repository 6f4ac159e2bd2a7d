// Any JSON as the body of both endpoints: a request within its limits, or an error with a message.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/openai_request.h"

namespace {

void check(const nanoflow::OpenAiRequest& request) {
  const nanoflow::RequestLimits limits;
  const bool chat = request.endpoint == nanoflow::Endpoint::kChatCompletions;
  if (request.n < 1 || request.n > limits.max_choices) __builtin_trap();
  if (chat != request.prompts.empty() || chat != request.messages.is_array()) __builtin_trap();
  if (static_cast<int64_t>(request.prompts.size()) > limits.max_prompts) __builtin_trap();
  if (request.sampling.max_tokens.has_value() && *request.sampling.max_tokens < 0) __builtin_trap();
  if (!(request.sampling.temperature >= 0 && request.sampling.top_p > 0)) __builtin_trap();
  for (const auto& stop : request.stop)
    if (stop.empty()) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto body =
      nanoflow::parse_json(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!body.has_value()) return 0;
  for (const auto endpoint :
       {nanoflow::Endpoint::kCompletions, nanoflow::Endpoint::kChatCompletions}) {
    const auto request = nanoflow::parse_openai_request(endpoint, *body);
    if (request.has_value()) check(*request);
    if (!request.has_value() && request.error().message.empty()) __builtin_trap();
  }
  return 0;
}
