// The small JSON files beside a Hugging Face vocabulary.
#include <charconv>

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "text/tokenizer_builders.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

/// The object in `path`, or null when there is no such file.
Json read_object(const fs::path& path) {
  if (!file_exists(path)) return nullptr;
  Result<Json> json = parse_json(read_file(path));
  if (!json) throw FormatError(path.string(), json.error().message);
  if (!json->is_object()) throw FormatError(path.string(), "must be a JSON object");
  return std::move(*json);
}

/// A token's name: a string, or an object with "content".
std::optional<std::string> token_name(const Json& json, std::string_view key,
                                      const fs::path& path) {
  const Json* value = json.find(key);
  if (value && value->is_object()) value = value->find("content");
  if (!value || value->is_null()) return std::nullopt;
  if (!value->is_string()) {
    throw FormatError(path.string(), fmt::format("'{}' must be a string", key));
  }
  return value->as_string();
}

std::optional<bool> flag(const Json& json, std::string_view key, const fs::path& path) {
  const Json* value = json.find(key);
  if (!value || value->is_null()) return std::nullopt;
  if (!value->is_bool()) {
    throw FormatError(path.string(), fmt::format("'{}' must be a boolean", key));
  }
  return value->as_bool();
}

void read_names(TokenizerConfig& config, const Json& json, const fs::path& path) {
  const auto take = [&](std::optional<std::string>& to, std::string_view key) {
    if (auto name = token_name(json, key, path); name && !to) to = std::move(name);
  };
  take(config.bos_token, "bos_token");
  take(config.eos_token, "eos_token");
  take(config.unk_token, "unk_token");
  take(config.pad_token, "pad_token");
  for (const std::string_view key : {"additional_special_tokens", "extra_special_tokens"}) {
    const Json* list = json.find(key);
    if (!list || !list->is_array()) continue;
    for (const Json& item : list->as_array()) {
      const Json* name = item.is_object() ? item.find("content") : &item;
      if (name && name->is_string()) config.additional_special_tokens.push_back(name->as_string());
    }
  }
}

/// "added_tokens_decoder": {"128000": {"content": "<|begin_of_text|>", "special": true, ...}}
void read_added_tokens(TokenizerConfig& config, const Json& json, const fs::path& path) {
  const Json* decoder = json.find("added_tokens_decoder");
  if (!decoder || !decoder->is_object()) return;
  for (const auto& [key, value] : decoder->as_object()) {
    AddedToken token;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    const Json* content = value.find("content");
    if (error != std::errc() || end != key.data() + key.size() || !content ||
        !content->is_string()) {
      throw FormatError(path.string(), fmt::format("added_tokens_decoder['{}'] is no token", key));
    }
    token.content = content->as_string();
    token.special = flag(value, "special", path).value_or(false);
    token.lstrip = flag(value, "lstrip", path).value_or(false);
    token.rstrip = flag(value, "rstrip", path).value_or(false);
    token.single_word = flag(value, "single_word", path).value_or(false);
    token.normalized = flag(value, "normalized", path).value_or(!token.special);
    config.added_tokens.push_back(std::move(token));
  }
}

/// added_tokens.json of older folders: {"<pad>": 32000}
void read_old_added_tokens(TokenizerConfig& config, const fs::path& path) {
  const Json json = read_object(path);
  if (!json.is_object() || !config.added_tokens.empty()) return;
  for (const auto& [content, id] : json.as_object()) {
    if (!id.is_int() || id.as_int() < 0 || id.as_int() > INT32_MAX) {
      throw FormatError(path.string(), fmt::format("the id of '{}' is no token id", content));
    }
    AddedToken token;
    token.id = static_cast<int32_t>(id.as_int());
    token.content = content;
    config.added_tokens.push_back(std::move(token));
  }
}

}  // namespace

TokenizerConfig read_tokenizer_config(const fs::path& dir) {
  TokenizerConfig config;
  const fs::path path = dir / "tokenizer_config.json";
  const Json json = read_object(path);
  read_names(config, json, path);
  read_added_tokens(config, json, path);
  config.add_bos_token = flag(json, "add_bos_token", path);
  config.add_eos_token = flag(json, "add_eos_token", path);
  config.legacy = flag(json, "legacy", path);
  read_names(config, read_object(dir / "special_tokens_map.json"), dir / "special_tokens_map.json");
  read_old_added_tokens(config, dir / "added_tokens.json");
  return config;
}

}  // namespace nanoflow
