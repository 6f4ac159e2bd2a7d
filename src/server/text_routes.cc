#include "server/text_routes.h"

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "api/completion.h"
#include "api/field_reader.h"
#include "server/answers.h"

namespace nanoflow {
namespace {

tl::unexpected<Error> no_tokenizer() {
  return fail(ErrorCode::kUnsupported, "this model was started without a tokenizer");
}

/// Fields of /tokenize that a chat body has under the same name.
constexpr std::string_view kOfChats[] = {
    "messages", "add_special_tokens",  "add_generation_prompt", "continue_final_message",
    "tools",    "chat_template_kwargs"};

/// The ids with which a chat would be served.
Result<std::vector<int32_t>> chat_ids(const TextModel& model, const Json& body) {
  Json request = Json::object();
  for (const std::string_view name : kOfChats)
    if (const Json* value = body.find(name)) request.set(name, *value);
  Result<OpenAiRequest> parsed =
      parse_openai_request(Endpoint::kChatCompletions, request, model.defaults);
  if (!parsed.has_value()) return tl::unexpected(parsed.error());
  parsed->structure.reset();  // of an answer that nobody asks for
  const Result<Completion> completion = Completion::create(model, std::move(*parsed), "", 1);
  if (!completion.has_value()) return tl::unexpected(completion.error());
  return completion->prompts().front().ids;
}

Result<std::vector<int32_t>> text_ids(const TextModel& model, FieldReader& reader) {
  std::string prompt;
  bool add_special_tokens = true;
  if (reader.find("prompt") == nullptr) reader.fail("prompt", "give a prompt or messages");
  reader.read("prompt", prompt);
  reader.read("add_special_tokens", add_special_tokens);
  if (!reader.ok()) return tl::unexpected(*reader.error());
  return model.tokenizer->encode(prompt,
                                 {.add_special_tokens = add_special_tokens, .parse_special = true});
}

Result<Json> tokenized(const TextModel& model, const Json& body) {
  if (!body.is_object()) return fail(ErrorCode::kInvalidArgument, "the body must be a JSON object");
  if (!model.tokenizer.has_value()) return no_tokenizer();
  FieldReader reader(body);
  bool with_strings = false;
  reader.read("return_token_strs", with_strings);
  if (!reader.ok()) return tl::unexpected(*reader.error());
  const bool chat = reader.find("messages") != nullptr;
  if (chat && reader.find("prompt") != nullptr)
    return fail(ErrorCode::kInvalidArgument, "give either prompt or messages", "messages");
  const Result<std::vector<int32_t>> tokens =
      chat ? chat_ids(model, body) : text_ids(model, reader);
  if (!tokens.has_value()) return tl::unexpected(tokens.error());
  Json::Array ids, strings;
  for (const int32_t id : *tokens) {
    ids.emplace_back(static_cast<int64_t>(id));
    if (with_strings) strings.emplace_back(model.tokenizer->token_text(id));
  }
  return Json::object({{"count", static_cast<int64_t>(ids.size())},
                       {"max_model_len", model.limits.max_model_len},
                       {"tokens", std::move(ids)},
                       {"token_strs", with_strings ? Json(std::move(strings)) : Json(nullptr)}});
}

Result<Json> detokenized(const TextModel& model, const Json& body) {
  if (!body.is_object()) return fail(ErrorCode::kInvalidArgument, "the body must be a JSON object");
  if (!model.tokenizer.has_value()) return no_tokenizer();
  FieldReader reader(body);
  std::vector<int32_t> ids;
  if (reader.find("tokens") == nullptr) reader.fail("tokens", "is missing");
  reader.read("tokens", ids, 0, std::numeric_limits<int32_t>::max());
  if (!reader.ok()) return tl::unexpected(*reader.error());
  if (Result<void> known = check_token_ids(ids, model.limits.vocab_size, "tokens"); !known)
    return tl::unexpected(known.error());
  return Json::object({{"prompt", model.tokenizer->decode(ids, /*skip_special=*/false)}});
}

HttpResponse answer(Result<Json> (*route)(const TextModel&, const Json&), const TextModel& model,
                    std::string_view body) {
  const Result<Json> parsed = parse_json(body);
  if (!parsed.has_value()) return error_answer(parsed.error());
  const Result<Json> result = route(model, *parsed);
  return result.has_value() ? json_answer(*result) : error_answer(result.error());
}

}  // namespace

HttpResponse tokenize_answer(const TextModel& model, std::string_view body) {
  return answer(tokenized, model, body);
}

HttpResponse detokenize_answer(const TextModel& model, std::string_view body) {
  return answer(detokenized, model, body);
}

HttpResponse tokenizer_info_answer(const TextModel& model) {
  if (!model.tokenizer.has_value()) return error_answer(no_tokenizer().value());
  const Tokenizer& tokenizer = *model.tokenizer;
  const auto text_of = [&](std::optional<int32_t> id) {
    return id ? Json(tokenizer.token_text(*id)) : Json(nullptr);
  };
  return json_answer(
      Json::object({{"bos_token", text_of(tokenizer.bos_id())},
                    {"eos_token", text_of(tokenizer.eos_id())},
                    {"unk_token", text_of(tokenizer.unk_id())},
                    {"pad_token", text_of(tokenizer.pad_id())},
                    {"add_bos_token", tokenizer.add_bos()},
                    {"add_eos_token", tokenizer.add_eos()},
                    {"vocab_size", static_cast<int64_t>(tokenizer.vocab_size())},
                    {"model_max_length", model.limits.max_model_len},
                    {"chat_template",
                     model.chat_template ? Json(model.chat_template->text()) : Json(nullptr)}}));
}

Json model_card(const std::string& name, const std::string& root, int64_t created_s,
                int64_t max_model_len) {
  Json permission = Json::object({{"id", "modelperm-" + name},
                                  {"object", "model_permission"},
                                  {"created", created_s},
                                  {"allow_create_engine", false},
                                  {"allow_sampling", true},
                                  {"allow_logprobs", true},
                                  {"allow_search_indices", false},
                                  {"allow_view", true},
                                  {"allow_fine_tuning", false},
                                  {"organization", "*"},
                                  {"group", nullptr},
                                  {"is_blocking", false}});
  return Json::object({{"id", name},
                       {"object", "model"},
                       {"created", created_s},
                       {"owned_by", "nanoflow"},
                       {"root", root},
                       {"parent", nullptr},
                       {"max_model_len", max_model_len},
                       {"permission", Json::array({std::move(permission)})}});
}

}  // namespace nanoflow
