// The response bodies of Completion, in OpenAI's two forms with vLLM's extra fields.
#include <algorithm>

#include <fmt/format.h>

#include "api/completion.h"
#include "api/printable.h"
#include "base/check.h"

namespace nanoflow {
namespace {

Json ids_json(const std::vector<int32_t>& ids) {
  Json::Array array;
  array.reserve(ids.size());
  for (const int32_t id : ids) array.emplace_back(static_cast<int64_t>(id));
  return Json(std::move(array));
}

bool is_utf8(std::string_view bytes) {
  return parse_json(Json(bytes).dump()).has_value();
}

/// A token's spelling in logprobs: its text; "bytes:\xe2\x80" where that is no whole character, as
/// OpenAI writes it; "token_id:12" when asked for or when there is no tokenizer.
class TokenSpelling {
 public:
  TokenSpelling(const TextModel& model, bool as_ids) : model_(model), as_ids_(as_ids) {}

  [[nodiscard]] std::string bytes(int32_t id) const {
    if (!model_.tokenizer.has_value()) return {};
    if (model_.tokenizer->is_special(id)) return std::string(model_.tokenizer->token_text(id));
    return std::string(model_.tokenizer->token_bytes(id));
  }
  [[nodiscard]] std::string operator()(int32_t id) const {
    if (as_ids_ || !model_.tokenizer.has_value()) return fmt::format("token_id:{}", id);
    std::string text = bytes(id);
    if (is_utf8(text)) return text;
    std::string escaped = "bytes:";
    for (const char c : text) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    return escaped;
  }

 private:
  const TextModel& model_;
  bool as_ids_;
};

/// The n likeliest of a position and the token itself, likeliest first.
std::vector<TopLogprob> top_with_chosen(const TokenLogprob& position) {
  std::vector<TopLogprob> top = position.top;
  const bool there = std::any_of(top.begin(), top.end(), [&](const TopLogprob& candidate) {
    return candidate.token == position.token;
  });
  if (!there) top.push_back({position.token, position.logprob});
  return top;
}

/// Where each token of an echoed prompt begins in its text, in code points: OpenAI's clients index
/// characters. A token that the text does not show (an added bos, a skipped special) is empty.
std::vector<size_t> prompt_offsets(const EncodedPrompt& prompt, const TokenSpelling& spell) {
  std::vector<size_t> offsets;
  std::string_view rest = prompt.text;
  size_t begun = 0;  // characters whose first byte has come
  size_t characters = 0;
  for (const int32_t id : prompt.ids) {
    offsets.push_back(characters);
    const std::string bytes = spell.bytes(id);
    std::string_view shown = bytes;
    // Some vocabularies put a space in front of a text that has none.
    if (rest.size() == prompt.text.size() && shown.starts_with(' ') && !rest.starts_with(' '))
      shown.remove_prefix(1);
    if (!rest.starts_with(shown)) continue;
    begun += count_characters(shown);
    rest.remove_prefix(shown.size());
    // A character counts once its last byte has come, as in generated text.
    const bool whole = rest.empty() || (static_cast<unsigned char>(rest[0]) & 0xC0u) != 0x80u;
    characters = whole ? begun : begun - 1;
  }
  return offsets;
}

/// OpenAI's completions form: parallel lists over tokens; the first prompt token has no logprob.
Json completion_logprobs(const EncodedPrompt* echoed, const Choice& choice,
                         const TokenSpelling& spell) {
  Json::Array tokens, values, tops, offsets;
  const auto add = [&](const TokenLogprob& position, size_t at) {
    tokens.emplace_back(spell(position.token));
    values.emplace_back(static_cast<double>(position.logprob));
    Json top = Json::object();
    for (const TopLogprob& candidate : top_with_chosen(position))
      top.set(spell(candidate.token), static_cast<double>(candidate.logprob));
    tops.push_back(std::move(top));
    offsets.emplace_back(static_cast<int64_t>(at));
  };
  size_t prompt_characters = 0;
  if (echoed != nullptr && !echoed->ids.empty()) {
    const std::vector<size_t> at = prompt_offsets(*echoed, spell);
    tokens.emplace_back(spell(echoed->ids.front()));
    values.emplace_back(nullptr);
    tops.emplace_back(nullptr);
    offsets.emplace_back(0);
    for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i)
      add(choice.prompt_logprobs[i], at[i + 1]);
    prompt_characters = count_characters(echoed->text);
  }
  for (size_t i = 0; i < choice.logprobs.size(); ++i)
    add(choice.logprobs[i], prompt_characters + choice.text_offsets[i]);
  return Json::object({{"text_offset", std::move(offsets)},
                       {"token_logprobs", std::move(values)},
                       {"tokens", std::move(tokens)},
                       {"top_logprobs", std::move(tops)}});
}

Json chat_token(int32_t id, float logprob, const TokenSpelling& spell) {
  Json::Array bytes;
  for (const char c : spell.bytes(id))
    bytes.emplace_back(static_cast<int64_t>(static_cast<unsigned char>(c)));
  return Json::object({{"token", spell(id)},
                       {"logprob", static_cast<double>(logprob)},
                       {"bytes", std::move(bytes)}});
}

/// OpenAI's chat form: a list of objects.
Json chat_logprobs(const Choice& choice, const TokenSpelling& spell) {
  Json::Array content;
  for (const TokenLogprob& position : choice.logprobs) {
    Json item = chat_token(position.token, position.logprob, spell);
    Json::Array top;
    for (const TopLogprob& candidate : position.top)
      top.push_back(chat_token(candidate.token, candidate.logprob, spell));
    item.set("top_logprobs", std::move(top));
    content.push_back(std::move(item));
  }
  return Json::object({{"content", std::move(content)}});
}

/// vLLM's prompt_logprobs: null for the first token, then {id: {logprob, rank, decoded_token}}.
Json prompt_logprobs(const Choice& choice, const TokenSpelling& spell) {
  Json::Array list;
  list.emplace_back(nullptr);
  for (const TokenLogprob& position : choice.prompt_logprobs) {
    Json entry = Json::object();
    int64_t rank = 1;
    for (const TopLogprob& candidate : position.top) {
      entry.set(fmt::format("{}", candidate.token),
                Json::object({{"logprob", static_cast<double>(candidate.logprob)},
                              {"rank", rank++},
                              {"decoded_token", spell(candidate.token)}}));
    }
    entry.set(fmt::format("{}", position.token),
              Json::object({{"logprob", static_cast<double>(position.logprob)},
                            {"rank", static_cast<int64_t>(position.rank) + 1},
                            {"decoded_token", spell(position.token)}}));
    list.push_back(std::move(entry));
  }
  return Json(std::move(list));
}

Json finish_json(const std::string& reason) {
  return reason.empty() ? Json(nullptr) : Json(reason);
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
    const bool wants_logprobs = request_.sampling.logprobs >= 0;
    if (chat) {
      item.set("message", Json::object({{"role", "assistant"}, {"content", choice.text}}));
      item.set("logprobs", wants_logprobs ? chat_logprobs(choice, spell) : Json(nullptr));
    } else {
      item.set("text", request_.echo ? prompt.text + choice.text : choice.text);
      item.set("logprobs", wants_logprobs ? completion_logprobs(request_.echo ? &prompt : nullptr,
                                                                choice, spell)
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
