#include "api/stream_chunks.h"

#include <iterator>

#include <fmt/format.h>

#include "api/logprobs_json.h"

namespace nanoflow {
namespace {

// Written by hand instead of as a Json value: one of these leaves for every token of every stream.
constexpr std::string_view kBegin = "data: ";
constexpr std::string_view kEnd = "\n\n";

void append_integer(std::string& out, int64_t value) {
  fmt::format_to(std::back_inserter(out), "{}", value);
}

void append_ids(const std::vector<int32_t>& ids, TokenRange range, std::string& out) {
  out += '[';
  for (size_t i = range.begin; i < range.end; ++i) {
    if (i > range.begin) out += ',';
    append_integer(out, ids[i]);
  }
  out += ']';
}

}  // namespace

StreamChunks::StreamChunks(const Completion& completion, int64_t created_s)
    : completion_(&completion), started_(completion.choices().size(), false) {
  const bool chat = completion.request().endpoint == Endpoint::kChatCompletions;
  head_ = kBegin;
  head_ += "{\"id\":";
  append_json_string(head_, completion.response_id());
  head_ += chat ? ",\"object\":\"chat.completion.chunk\"" : ",\"object\":\"text_completion\"";
  head_ += ",\"created\":";
  append_integer(head_, created_s);
  head_ += ",\"model\":";
  append_json_string(head_, completion.model().name);
  head_ += ",\"choices\":[";
}

void StreamChunks::append(const ChoiceDelta& delta, std::string& out) {
  const OpenAiRequest& request = completion_->request();
  const auto choice = static_cast<size_t>(delta.choice);
  const bool first = !started_[choice];
  const bool has_tokens = delta.tokens_end > delta.tokens_begin;
  const bool tells_tokens =
      has_tokens && (request.sampling.logprobs >= 0 || request.return_token_ids);
  const bool echoes = first && request.echo;
  if (delta.text.empty() && delta.tool_calls.empty() && !delta.finished && !tells_tokens && !echoes)
    return;

  out += head_;
  out += "{\"index\":";
  append_integer(out, delta.choice);
  if (request.endpoint == Endpoint::kChatCompletions) {
    append_chat(delta, out);
  } else {
    append_completion(delta, out);
  }
  append_logprobs(delta, out);
  append_tail(delta, out);
  started_[choice] = true;
}

void StreamChunks::append_chat(const ChoiceDelta& delta, std::string& out) const {
  out += ",\"delta\":{";
  if (!started_[static_cast<size_t>(delta.choice)]) {
    out += "\"role\":\"assistant\",\"content\":";
    append_json_string(out, delta.text);
  } else if (!delta.text.empty()) {
    out += "\"content\":";
    append_json_string(out, delta.text);
  }
  if (!delta.tool_calls.empty()) append_tool_calls(delta, out);
  out += '}';
}

/// A call's id, type and name come once; arguments are what follows those of the events before.
void StreamChunks::append_tool_calls(const ChoiceDelta& delta, std::string& out) const {
  const bool alone = started_[static_cast<size_t>(delta.choice)] && delta.text.empty();
  out += alone ? "\"tool_calls\":[" : ",\"tool_calls\":[";
  for (size_t i = 0; i < delta.tool_calls.size(); ++i) {
    const ToolCallPiece& piece = delta.tool_calls[i];
    out += i == 0 ? "{\"index\":" : ",{\"index\":";
    append_integer(out, piece.index);
    if (piece.begins) {
      out += ",\"id\":";
      append_json_string(out, completion_->tool_call_id(delta.choice, piece.index));
      out += ",\"type\":\"function\"";
    }
    out += ",\"function\":{";
    if (piece.begins) {
      out += "\"name\":";
      append_json_string(out, piece.name);
      out += ',';
    }
    out += "\"arguments\":";
    append_json_string(out, piece.arguments);
    out += "}}";
  }
  out += ']';
}

void StreamChunks::append_completion(const ChoiceDelta& delta, std::string& out) const {
  out += ",\"text\":";
  const auto choice = static_cast<size_t>(delta.choice);
  if (completion_->request().echo && !started_[choice]) {
    const EncodedPrompt& prompt = completion_->prompts()[completion_->choices()[choice].prompt];
    append_json_string(out, prompt.text + delta.text);
  } else {
    append_json_string(out, delta.text);
  }
}

void StreamChunks::append_logprobs(const ChoiceDelta& delta, std::string& out) const {
  const OpenAiRequest& request = completion_->request();
  out += ",\"logprobs\":";
  if (request.sampling.logprobs < 0) {
    out += "null";
    return;
  }
  const auto index = static_cast<size_t>(delta.choice);
  const Choice& choice = completion_->choices()[index];
  const TokenRange range{delta.tokens_begin, delta.tokens_end};
  const TokenSpelling spell(completion_->model(), request.return_tokens_as_token_ids);
  if (request.endpoint == Endpoint::kChatCompletions) {
    out += chat_logprobs(choice, range, spell).dump();
    return;
  }
  const EncodedPrompt* prompt = request.echo ? &completion_->prompts()[choice.prompt] : nullptr;
  out += completion_logprobs(prompt, !started_[index], choice, range, spell).dump();
}

void StreamChunks::append_tail(const ChoiceDelta& delta, std::string& out) const {
  const OpenAiRequest& request = completion_->request();
  const auto index = static_cast<size_t>(delta.choice);
  const Choice& choice = completion_->choices()[index];
  if (delta.finished) {
    out += ",\"finish_reason\":";
    append_json_string(out, choice.finish_reason);
    out += ",\"stop_reason\":";
    out += choice.stop_reason.dump();
  } else {
    out += ",\"finish_reason\":null,\"stop_reason\":null";
  }
  if (request.return_token_ids) {
    out += ",\"token_ids\":";
    append_ids(choice.tokens, {delta.tokens_begin, delta.tokens_end}, out);
    if (!started_[index]) {
      const std::vector<int32_t>& ids = completion_->prompts()[choice.prompt].ids;
      out += ",\"prompt_token_ids\":";
      append_ids(ids, {0, ids.size()}, out);
    }
  }
  out += "}]";
  if (request.continuous_usage_stats) {
    append_usage(out);
  } else if (request.include_usage) {
    out += ",\"usage\":null";
  }
  out += '}';
  out += kEnd;
}

void StreamChunks::append_usage(std::string& out) const {
  const int64_t prompt = completion_->prompt_tokens();
  const int64_t output = completion_->output_tokens();
  fmt::format_to(std::back_inserter(out),
                 ",\"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{}}}",
                 prompt, output, prompt + output);
}

void StreamChunks::append_end(std::string& out) const {
  if (completion_->request().include_usage) {
    out += head_;
    out += ']';
    append_usage(out);
    out += '}';
    out += kEnd;
  }
  out += kBegin;
  out += "[DONE]";
  out += kEnd;
}

void StreamChunks::append_error(const Error& error, std::string& out) {
  out += kBegin;
  out += error_body(error).dump();
  out += kEnd;
  out += kBegin;
  out += "[DONE]";
  out += kEnd;
}

}  // namespace nanoflow
