#include "api/completion.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "api/printable.h"
#include "base/check.h"
#include "base/random.h"

namespace nanoflow {
namespace {

/// `literal`: bytes of `text` that must not become control tokens.
Result<EncodedPrompt> encode_text(const TextModel& model, const OpenAiRequest& request,
                                  const std::string& text, std::span<const TextSpan> literal) {
  const bool chat = request.endpoint == Endpoint::kChatCompletions;
  if (!model.tokenizer.has_value())
    return fail(ErrorCode::kUnsupported,
                "this model was started without a tokenizer: send token ids", "prompt");
  // A template writes its own bos token; a plain prompt gets the model's. Special tokens in a plain
  // prompt are its sender's own.
  const EncodeOptions options{.add_special_tokens = request.add_special_tokens.value_or(!chat),
                              .parse_special = true,
                              .literal = literal};
  Result<std::vector<int32_t>> ids = model.tokenizer->encode(text, options);
  if (!ids.has_value()) return tl::unexpected(ids.error());
  return EncodedPrompt{std::move(*ids), text};
}

Result<EncodedPrompt> encode_chat(const TextModel& model, const OpenAiRequest& request) {
  if (!model.chat_template.has_value())
    return fail(ErrorCode::kUnsupported,
                "this model has no chat template; give one with --chat-template", "messages");
  const ChatRenderOptions options{.add_generation_prompt = request.add_generation_prompt,
                                  .continue_final_message = request.continue_final_message,
                                  .tools = request.tools.tools,
                                  .documents = request.documents,
                                  .kwargs = request.template_kwargs,
                                  .parse_special_in_messages = request.parse_special_in_messages};
  const Result<RenderedChat> chat = model.chat_template->render(request.messages, options);
  if (!chat.has_value()) return tl::unexpected(chat.error());
  return encode_text(model, request, chat->text, chat->literal);
}

Result<EncodedPrompt> encode_prompt(const TextModel& model, const OpenAiRequest& request,
                                    const Prompt& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt))
    return encode_text(model, request, *text, {});
  EncodedPrompt encoded{std::get<std::vector<int32_t>>(prompt), {}};
  if (auto known = check_token_ids(encoded.ids, model.limits.vocab_size, "prompt"); !known)
    return tl::unexpected(known.error());
  if (request.echo && model.tokenizer.has_value())
    encoded.text = model.tokenizer->decode(encoded.ids, request.skip_special_tokens);
  return encoded;
}

Result<std::vector<EncodedPrompt>> encode_prompts(const TextModel& model,
                                                  const OpenAiRequest& request) {
  std::vector<EncodedPrompt> prompts;
  const auto add = [&](Result<EncodedPrompt> prompt) -> Result<void> {
    if (!prompt.has_value()) return tl::unexpected(prompt.error());
    const auto limit = static_cast<size_t>(request.truncate_prompt_tokens.value_or(0));
    if (limit > 0 && prompt->ids.size() > limit) {  // keeps the end, as vLLM does
      prompt->ids.erase(prompt->ids.begin(), prompt->ids.end() - static_cast<int64_t>(limit));
      if (request.echo && model.tokenizer.has_value())
        prompt->text = model.tokenizer->decode(prompt->ids, request.skip_special_tokens);
    }
    if (prompt->ids.empty())
      return fail(ErrorCode::kInvalidArgument, "the prompt has no tokens", "prompt");
    prompts.push_back(std::move(*prompt));
    return {};
  };
  if (request.endpoint == Endpoint::kChatCompletions) {
    if (Result<void> added = add(encode_chat(model, request)); !added)
      return tl::unexpected(added.error());
    return prompts;
  }
  for (const Prompt& prompt : request.prompts) {
    if (Result<void> added = add(encode_prompt(model, request, prompt)); !added)
      return tl::unexpected(added.error());
  }
  return prompts;
}

/// Engine parameters of choice `i` of a prompt that leaves `room` tokens for the output.
SamplingParams choice_sampling(const OpenAiRequest& request, int64_t i, int64_t room) {
  SamplingParams sampling = request.sampling;
  if (request.max_tokens_is_default && sampling.max_tokens > room) sampling.max_tokens.reset();
  if (sampling.seed.has_value()) *sampling.seed += static_cast<uint64_t>(i);
  // Echoed text carries the prompt's logprobs, too.
  if (request.echo && sampling.logprobs >= 0)
    sampling.prompt_logprobs = std::max(sampling.prompt_logprobs, sampling.logprobs);
  return sampling;
}

/// Null when the request asks for no structure.
Result<std::shared_ptr<const TokenConstraint>> compile_structure(const TextModel& model,
                                                                 const OpenAiRequest& request) {
  if (!request.structure.has_value()) return nullptr;
  if (model.grammars == nullptr)
    return fail(ErrorCode::kUnsupported,
                "structured output needs a tokenizer, and this model was started without one",
                request.structure->param);
  return model.grammars->compile(*request.structure);
}

/// How calls stand in the output; nullopt when none are looked for.
std::optional<ToolFormat> tool_format(const TextModel& model, const OpenAiRequest& request) {
  switch (request.tools.choice) {
    case ToolChoice::kNone: return std::nullopt;
    case ToolChoice::kAuto: break;
    case ToolChoice::kRequired: return ToolFormat::kCallList;
    case ToolChoice::kNamed: return ToolFormat::kArguments;
  }
  // An output that is kept to another structure is no call, however it looks.
  return request.structure.has_value() ? std::nullopt : model.tool_format;
}

}  // namespace

Result<Completion> Completion::create(const TextModel& model, OpenAiRequest request,
                                      std::string response_id, RequestId first_id) {
  if (!request.stop.empty() && !model.tokenizer.has_value())
    return fail(ErrorCode::kUnsupported, "stop strings need a tokenizer", "stop");
  Result<std::vector<EncodedPrompt>> prompts = encode_prompts(model, request);
  if (!prompts.has_value()) return tl::unexpected(prompts.error());
  Result<StopStrings> stop = StopStrings::create(request.stop, request.include_stop_str_in_output);
  if (!stop.has_value()) return tl::unexpected(stop.error());

  Result<std::shared_ptr<const TokenConstraint>> constraint = compile_structure(model, request);
  if (!constraint.has_value()) return tl::unexpected(constraint.error());

  // Markers of calls are special tokens of some models.
  const std::optional<ToolFormat> format = tool_format(model, request);
  const bool skip_special = request.skip_special_tokens && !format.has_value();

  Completion completion;
  completion.model_ = &model;
  completion.response_id_ = std::move(response_id);
  completion.prompts_ = std::move(*prompts);
  for (size_t p = 0; p < completion.prompts_.size(); ++p) {
    const int64_t room =
        model.limits.max_model_len - static_cast<int64_t>(completion.prompts_[p].ids.size());
    for (int64_t i = 0; i < request.n; ++i) {
      const RequestId id = first_id + completion.choices_.size();
      completion.engine_requests_.push_back({.id = id,
                                             .prompt = completion.prompts_[p].ids,
                                             .sampling = choice_sampling(request, i, room),
                                             .eos_token_ids = std::nullopt,
                                             .constraint = *constraint});
      completion.choices_.push_back({.prompt = p, .request_id = id});
      completion.stops_.push_back(*stop);
      if (format.has_value())
        completion.tools_.emplace_back(*format, request.tools.name, request.tools.parallel);
      if (model.tokenizer.has_value())
        completion.detokenizers_.emplace_back(
            *model.tokenizer,
            DetokenizerOptions{.skip_special = skip_special, .continues_text = true});
    }
  }
  completion.running_ = completion.choices_.size();
  completion.request_ = std::move(request);
  return completion;
}

std::vector<Request> Completion::take_engine_requests() {
  return std::move(engine_requests_);
}

void Completion::append_token(Choice& choice, size_t index, int32_t token, bool hidden,
                              ChoiceDelta& delta) {
  choice.tokens.push_back(token);
  choice.text_offsets.push_back(choice.text_characters + count_characters(delta.text));
  if (detokenizers_.empty() || hidden) return;
  // As in vLLM: no stop string ends the output before min_tokens.
  const bool may_stop = static_cast<int64_t>(choice.tokens.size()) > request_.sampling.min_tokens;
  delta.text += stops_[index].push(detokenizers_[index].push(token), may_stop);
  if (!stops_[index].stopped()) return;
  choice.finish_reason = "stop";
  choice.stop_reason = Json(stops_[index].matched());
  delta.cancel = true;
}

ChoiceDelta Completion::on_event(const TokenEvent& event) {
  const size_t index = event.request_id - choices_.front().request_id;
  NANO_CHECK(index < choices_.size(), "event of request {}", event.request_id);
  Choice& choice = choices_[index];
  ChoiceDelta delta{.choice = static_cast<int64_t>(index)};
  if (!choice.finish_reason.empty()) return delta;
  choice.times = event.times;
  choice.num_preemptions = event.num_preemptions;
  if (!event.prompt_logprobs.empty()) choice.prompt_logprobs = event.prompt_logprobs;
  delta.tokens_begin = choice.tokens.size();
  const std::vector<int32_t>& stop_ids = request_.sampling.stop_token_ids;
  for (size_t i = 0; i < event.tokens.size() && choice.finish_reason.empty(); ++i) {
    const bool last = i + 1 == event.tokens.size();
    // The token that ends the output gives text only when asked for.
    const bool hidden = last && event.finish == FinishReason::kStop &&
                        event.stop_token == event.tokens[i] && !request_.include_stop_str_in_output;
    if (i < event.logprobs.size()) choice.logprobs.push_back(event.logprobs[i]);
    append_token(choice, index, event.tokens[i], hidden, delta);
  }
  if (choice.finish_reason.empty() && event.finish.has_value()) {
    if (!detokenizers_.empty()) {
      delta.text += stops_[index].push(detokenizers_[index].finish());
      delta.text += stops_[index].finish();
    }
    choice.finish_reason = finish_reason_name(*event.finish);
    choice.error = {event.error_code, event.error, {}};
    const bool is_stop_id =
        event.stop_token.has_value() &&
        std::find(stop_ids.begin(), stop_ids.end(), *event.stop_token) != stop_ids.end();
    if (is_stop_id) choice.stop_reason = Json(static_cast<int64_t>(*event.stop_token));
  }
  if (!tools_.empty()) read_tool_calls(choice, index, delta);
  choice.text += delta.text;
  choice.text_characters += count_characters(delta.text);
  delta.tokens_end = choice.tokens.size();
  delta.finished = !choice.finish_reason.empty();
  if (delta.finished) --running_;
  return delta;
}

/// Parts the new text into content and calls.
void Completion::read_tool_calls(Choice& choice, size_t index, ChoiceDelta& delta) {
  ToolOutput out = tools_[index].push(delta.text);
  if (!choice.finish_reason.empty()) {
    ToolOutput rest = tools_[index].finish();
    out.content += rest.content;
    std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(out.calls));
  }
  for (const ToolCallPiece& piece : out.calls) {
    if (piece.begins) choice.tool_calls.push_back({piece.name, {}});
    choice.tool_calls[static_cast<size_t>(piece.index)].arguments += piece.arguments;
  }
  delta.text = std::move(out.content);
  delta.tool_calls = std::move(out.calls);
  if (choice.finish_reason == "stop" && !choice.tool_calls.empty())
    choice.finish_reason = "tool_calls";
}

std::string Completion::tool_call_id(int64_t choice, int64_t index) const {
  constexpr std::string_view kLetters =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const bool mistral = model_->tool_format == ToolFormat::kMistral;
  // The response's id is unique, and 62^9 of its hash are enough for one conversation.
  SplitMix64 random(std::hash<std::string>{}(fmt::format("{}/{}/{}", response_id_, choice, index)));
  std::string id = mistral ? "" : "call_";
  for (int i = 0; i < (mistral ? 9 : 16); ++i)
    id +=
        kLetters[static_cast<size_t>(random.between(0, static_cast<int64_t>(kLetters.size()) - 1))];
  return id;
}

std::optional<Error> Completion::error() const {
  for (const Choice& choice : choices_) {
    if (choice.finish_reason == "error") return choice.error;
  }
  return std::nullopt;
}

int64_t Completion::prompt_tokens() const {
  int64_t total = 0;
  for (const EncodedPrompt& prompt : prompts_) total += static_cast<int64_t>(prompt.ids.size());
  return total;
}

int64_t Completion::output_tokens() const {
  int64_t total = 0;
  for (const Choice& choice : choices_) total += static_cast<int64_t>(choice.tokens.size());
  return total;
}

}  // namespace nanoflow
