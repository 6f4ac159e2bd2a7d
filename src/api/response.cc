// The response bodies of Completion, in OpenAI's two forms with vLLM's extra fields.
#include "api/completion.h"
#include "api/logprobs_json.h"
#include "base/check.h"

namespace nanoflow {
namespace {

Json finish_json(const std::string& reason) {
  return reason.empty() ? Json(nullptr) : Json(reason);
}

/// As OpenAI's clients expect it: content is null where there are calls alone.
Json message_json(const Completion& completion, size_t index) {
  const Choice& choice = completion.choices()[index];
  const bool calls_alone = choice.text.empty() && !choice.tool_calls.empty();
  Json message = Json::object(
      {{"role", "assistant"}, {"content", calls_alone ? Json(nullptr) : Json(choice.text)}});
  if (choice.tool_calls.empty()) return message;
  Json::Array calls;
  for (size_t i = 0; i < choice.tool_calls.size(); ++i) {
    const ToolCall& call = choice.tool_calls[i];
    calls.push_back(Json::object(
        {{"id", completion.tool_call_id(static_cast<int64_t>(index), static_cast<int64_t>(i))},
         {"type", "function"},
         {"function", Json::object({{"name", call.name}, {"arguments", call.arguments}})}}));
  }
  message.set("tool_calls", std::move(calls));
  return message;
}

}  // namespace

Json Completion::response(int64_t created_s) const {
  NANO_CHECK(done(), "{} choices still run", running_);
  const bool chat = request_.endpoint == Endpoint::kChatCompletions;
  const TokenSpelling spell(*model_, request_.return_tokens_as_token_ids);
  Json::Array choices;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    const EncodedPrompt& prompt = prompts_[choice.prompt];
    Json item = Json::object({{"index", static_cast<int64_t>(i)}});
    const TokenRange all{0, choice.tokens.size()};
    const bool wants_logprobs = request_.sampling.logprobs >= 0;
    if (chat) {
      item.set("message", message_json(*this, i));
      item.set("logprobs", wants_logprobs ? chat_logprobs(choice, all, spell) : Json(nullptr));
    } else {
      item.set("text", request_.echo ? prompt.text + choice.text : choice.text);
      item.set("logprobs", wants_logprobs ? completion_logprobs(request_.echo ? &prompt : nullptr,
                                                                true, choice, all, spell)
                                          : Json(nullptr));
    }
    item.set("finish_reason", finish_json(choice.finish_reason));
    item.set("stop_reason", choice.stop_reason);
    if (request_.return_token_ids) {
      item.set("token_ids", ids_json(choice.tokens));
      if (!chat) item.set("prompt_token_ids", ids_json(prompt.ids));
    }
    if (!chat && request_.sampling.prompt_logprobs >= 0)
      item.set("prompt_logprobs", prompt_logprobs(choice, spell));
    choices.push_back(std::move(item));
  }
  Json body = Json::object(
      {{"id", response_id_},
       {"object", chat ? "chat.completion" : "text_completion"},
       {"created", created_s},
       {"model", model_->name},
       {"choices", std::move(choices)},
       {"usage", Json::object({{"prompt_tokens", prompt_tokens()},
                               {"completion_tokens", output_tokens()},
                               {"total_tokens", prompt_tokens() + output_tokens()}})}});
  if (chat && request_.return_token_ids)
    body.set("prompt_token_ids", ids_json(prompts_.front().ids));
  if (chat && request_.sampling.prompt_logprobs >= 0)
    body.set("prompt_logprobs", prompt_logprobs(choices_.front(), spell));
  return body;
}

Json error_body(const Error& error, int* status) {
  struct Mapping {
    int status;
    const char* type;
  };
  const auto mapping = [&]() -> Mapping {
    switch (error.code) {
      case ErrorCode::kInvalidArgument: return {400, "BadRequestError"};
      case ErrorCode::kUnsupported: return {400, "BadRequestError"};
      case ErrorCode::kContextTooLong: return {400, "BadRequestError"};
      case ErrorCode::kNotFound: return {404, "NotFoundError"};
      case ErrorCode::kResourceExhausted: return {503, "ServiceUnavailableError"};
      case ErrorCode::kUnavailable: return {503, "ServiceUnavailableError"};
      case ErrorCode::kDeadlineExceeded: return {504, "TimeoutError"};
      case ErrorCode::kCancelled: return {499, "RequestCancelledError"};
      case ErrorCode::kInternal: return {500, "InternalServerError"};
    }
    return {500, "InternalServerError"};
  }();
  if (status != nullptr) *status = mapping.status;
  const bool too_long = error.code == ErrorCode::kContextTooLong;
  return Json::object(
      {{"error", Json::object({{"message", error.message},
                               {"type", mapping.type},
                               {"param", error.param.empty() ? Json(nullptr) : Json(error.param)},
                               {"code", too_long ? Json("context_length_exceeded")
                                                 : Json(mapping.status)}})}});
}

}  // namespace nanoflow
