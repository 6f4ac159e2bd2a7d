#include "text/tokenizer_builders.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_map>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

// An id far above the vocabulary is a damaged file, not a token; it must not cost memory.
constexpr int32_t kMaxGap = 1 << 20;

using Texts = std::vector<std::string>;

/// Puts one added token into the list and the table of texts.
void add_token(std::vector<AddedToken>& added, Texts& texts, const AddedToken& token,
               const std::string& name) {
  if (token.content.empty()) return;
  if (token.id < 0 || token.id > static_cast<int32_t>(texts.size()) + kMaxGap) {
    throw FormatError(name, fmt::format("added token '{}' has id {} beside a vocabulary of {}",
                                        token.content, token.id, texts.size()));
  }
  const auto id = static_cast<size_t>(token.id);
  if (texts.size() <= id) texts.resize(id + 1);
  if (texts[id].empty()) texts[id] = token.content;
  const auto known = std::find_if(added.begin(), added.end(),
                                  [&](const AddedToken& a) { return a.id == token.id; });
  if (known == added.end()) {
    added.push_back(token);
  } else {
    *known = token;
  }
}

/// Marks the token named `content` special; its id if there is such a token.
std::optional<int32_t> name_special(std::vector<AddedToken>& added, const Texts& texts,
                                    const std::string& content) {
  for (AddedToken& token : added) {
    if (token.content != content) continue;
    token.special = true;
    return token.id;
  }
  const auto found = std::find(texts.begin(), texts.end(), content);
  if (found == texts.end() || content.empty()) return std::nullopt;
  AddedToken token;
  token.id = static_cast<int32_t>(found - texts.begin());
  token.content = content;
  token.special = true;
  token.normalized = false;
  added.push_back(token);
  return token.id;
}

}  // namespace

std::vector<Merge> merges_of_ranks(const StringTable& tokens,
                                   const std::vector<RankedToken>& ranked, bool bytes) {
  const TokenIndex index(tokens);
  std::vector<Merge> merges;
  merges.reserve(ranked.size() * 3);
  for (const RankedToken& token : ranked) {
    const std::string_view text = tokens[static_cast<size_t>(token.id)];
    for (size_t cut = 1; cut < text.size(); ++cut) {
      if (!bytes && is_continuation(text[cut])) continue;
      const int32_t left = index.find(tokens, text.substr(0, cut));
      if (left < 0) continue;
      const int32_t right = index.find(tokens, text.substr(cut));
      if (right >= 0) merges.push_back({left, right, token.rank, token.id});
    }
  }
  return merges;
}

void apply_config(TokenizerParts& parts, std::vector<AddedToken> added,
                  const TokenizerConfig& config, const std::string& name) {
  Texts texts;
  texts.reserve(parts.texts.size());
  for (size_t id = 0; id < parts.texts.size(); ++id) texts.emplace_back(parts.texts[id]);
  const std::vector<AddedToken> own = std::exchange(added, {});
  for (const AddedToken& token : own) add_token(added, texts, token, name);
  for (const AddedToken& token : config.added_tokens) add_token(added, texts, token, name);
  const auto named = [&](const std::optional<std::string>& content, std::optional<int32_t>& id) {
    if (!content) return;
    if (const auto found = name_special(added, texts, *content)) id = found;
  };
  named(config.bos_token, parts.bos);
  named(config.eos_token, parts.eos);
  named(config.unk_token, parts.unk);
  named(config.pad_token, parts.pad);
  for (const std::string& content : config.additional_special_tokens) {
    name_special(added, texts, content);
  }
  std::string buffer;
  for (const AddedToken& token : added) {
    AddedTokenEntry entry;
    entry.normalized = token.normalized;
    entry.special = token.special;
    entry.pattern = {token.content, token.id, token.lstrip, token.rstrip, token.single_word};
    if (token.normalized) {
      entry.pattern.content = parts.normalizer.normalize(token.content, buffer);
    }
    parts.added.push_back(std::move(entry));
  }
  StringTable table;
  for (const std::string& text : texts) table.push_back(text);
  parts.texts = std::move(table);
}

void apply_bos_eos(TokenizerParts& parts, const TokenizerConfig& config) {
  const auto without = [](std::vector<int32_t>& ids, std::optional<int32_t> id) {
    if (id) ids.erase(std::remove(ids.begin(), ids.end(), *id), ids.end());
  };
  if (config.add_bos_token && parts.bos) {
    without(parts.prefix, parts.bos);
    if (*config.add_bos_token) parts.prefix.insert(parts.prefix.begin(), *parts.bos);
  }
  if (config.add_eos_token && parts.eos) {
    without(parts.suffix, parts.eos);
    if (*config.add_eos_token) parts.suffix.push_back(*parts.eos);
  }
}

Tokenizer make_tokenizer(TokenizerParts parts) {
  // What special tokens spell must never come out of BPE: a user could write it.
  std::vector<bool> special(parts.texts.size(), false);
  for (const AddedTokenEntry& entry : parts.added) {
    if (entry.special) special[static_cast<size_t>(entry.pattern.id)] = true;
  }
  BpeModel& bpe = *parts.bpe;
  const auto is_special = [&](int32_t id) { return special[static_cast<size_t>(id)]; };
  bpe.merges.erase(std::remove_if(bpe.merges.begin(), bpe.merges.end(),
                                  [&](const Merge& m) { return is_special(m.result); }),
                   bpe.merges.end());
  StringTable ordinary;
  for (size_t id = 0; id < bpe.tokens.size(); ++id) {
    ordinary.push_back(special[id] ? std::string_view() : bpe.tokens[id]);
  }
  bpe.tokens = std::move(ordinary);
  return Tokenizer(std::make_unique<const Tokenizer::Impl>(std::move(parts)));
}

}  // namespace nanoflow
