#include "api/logprobs_json.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "api/printable.h"

namespace nanoflow {
namespace {

bool is_utf8(std::string_view bytes) {
  return parse_json(Json(bytes).dump()).has_value();
}

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

Json chat_token(int32_t id, float logprob, const TokenSpelling& spell) {
  Json::Array bytes;
  for (const char c : spell.bytes(id))
    bytes.emplace_back(static_cast<int64_t>(static_cast<unsigned char>(c)));
  return Json::object({{"token", spell(id)},
                       {"logprob", static_cast<double>(logprob)},
                       {"bytes", std::move(bytes)}});
}

}  // namespace

std::string TokenSpelling::bytes(int32_t id) const {
  if (!model_->tokenizer.has_value()) return {};
  if (model_->tokenizer->is_special(id)) return std::string(model_->tokenizer->token_text(id));
  return std::string(model_->tokenizer->token_bytes(id));
}

std::string TokenSpelling::operator()(int32_t id) const {
  if (as_ids_ || !model_->tokenizer.has_value()) return fmt::format("token_id:{}", id);
  std::string text = bytes(id);
  if (is_utf8(text)) return text;
  std::string escaped = "bytes:";
  for (const char c : text) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return escaped;
}

Json ids_json(const std::vector<int32_t>& ids) {
  Json::Array array;
  array.reserve(ids.size());
  for (const int32_t id : ids) array.emplace_back(static_cast<int64_t>(id));
  return Json(std::move(array));
}

Json completion_logprobs(const EncodedPrompt* prompt, bool list_prompt, const Choice& choice,
                         TokenRange range, const TokenSpelling& spell) {
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
  if (list_prompt && prompt != nullptr && !prompt->ids.empty()) {
    const std::vector<size_t> at = prompt_offsets(*prompt, spell);
    tokens.emplace_back(spell(prompt->ids.front()));
    values.emplace_back(nullptr);
    tops.emplace_back(nullptr);
    offsets.emplace_back(0);
    for (size_t i = 0; i < choice.prompt_logprobs.size(); ++i)
      add(choice.prompt_logprobs[i], at[i + 1]);
  }
  const size_t prompt_characters = prompt == nullptr ? 0 : count_characters(prompt->text);
  for (size_t i = range.begin; i < std::min(range.end, choice.logprobs.size()); ++i)
    add(choice.logprobs[i], prompt_characters + choice.text_offsets[i]);
  return Json::object({{"text_offset", std::move(offsets)},
                       {"token_logprobs", std::move(values)},
                       {"tokens", std::move(tokens)},
                       {"top_logprobs", std::move(tops)}});
}

Json chat_logprobs(const Choice& choice, TokenRange range, const TokenSpelling& spell) {
  Json::Array content;
  for (size_t i = range.begin; i < std::min(range.end, choice.logprobs.size()); ++i) {
    const TokenLogprob& position = choice.logprobs[i];
    Json item = chat_token(position.token, position.logprob, spell);
    Json::Array top;
    for (const TopLogprob& candidate : position.top)
      top.push_back(chat_token(candidate.token, candidate.logprob, spell));
    item.set("top_logprobs", std::move(top));
    content.push_back(std::move(item));
  }
  return Json::object({{"content", std::move(content)}});
}

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

}  // namespace nanoflow
