#include "engine/request_check.h"

#include <fmt/format.h>

namespace nanoflow {

namespace {

Result<int64_t> output_room(const Request& request, const EngineLimits& limits) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t room = limits.max_model_len - prompt;
  const std::optional<int64_t> max_tokens = request.sampling.max_tokens;
  if (max_tokens && *max_tokens <= room) return *max_tokens;  // negative: refused by validate()
  if (!max_tokens && room > 0) return room;
  const std::string wanted = max_tokens && *max_tokens > 0
                                 ? fmt::format("{} prompt tokens and max_tokens {} make {} tokens",
                                               prompt, *max_tokens, prompt + *max_tokens)
                                 : fmt::format("the prompt has {} tokens", prompt);
  return fail(ErrorCode::kContextTooLong,
              fmt::format("{}, but the context holds {}{}", wanted, limits.max_model_len,
                          room == 0 && !max_tokens ? ", which leaves none for the output" : ""),
              max_tokens && room >= 0 ? "max_tokens" : "prompt");
}

}  // namespace

Result<int64_t> check_request(const Request& request, const EngineLimits& limits) {
  if (request.prompt.empty()) {
    return fail(ErrorCode::kInvalidArgument, "must have at least one token", "prompt");
  }
  // Before anything that is linear in a prompt that may be absurdly long.
  Result<int64_t> room = output_room(request, limits);
  if (!room) return room;
  if (auto check = request.sampling.validate(limits.vocab_size); !check) {
    return tl::unexpected(check.error());
  }
  if (auto check = check_token_ids(request.prompt, limits.vocab_size, "prompt"); !check) {
    return tl::unexpected(check.error());
  }
  if (request.eos_token_ids) {
    if (request.eos_token_ids->size() > kMaxStopTokenIds) {
      return fail(ErrorCode::kInvalidArgument,
                  fmt::format("has {} entries; at most {} are supported",
                              request.eos_token_ids->size(), kMaxStopTokenIds),
                  "eos_token_ids");
    }
    if (auto check = check_token_ids(*request.eos_token_ids, limits.vocab_size, "eos_token_ids");
        !check) {
      return tl::unexpected(check.error());
    }
  }
  return room;
}

}  // namespace nanoflow
