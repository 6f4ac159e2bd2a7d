// A GGUF file's tokenizer.ggml.* keys, translated into the structs of the other formats.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/error.h"
#include "formats/gguf.h"
#include "text/tokenizer_builders.h"
#include "text/tokenizer_loader.h"

namespace nanoflow {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

// Token types have the numbers of SentencePiece's pieces.
constexpr int64_t kControl = 3;
constexpr int64_t kUserDefined = 4;

std::string key(std::string_view name) {
  return std::string(kPrefix).append(name);
}

const std::vector<std::string_view>& strings(const GgufFile& gguf, std::string_view name) {
  const auto* found = gguf.find_strings(key(name));
  if (!found) throw FormatError(gguf.name(), key(name) + " is missing");
  return *found;
}

/// Types by token id; all normal when the file has none.
std::vector<int64_t> token_types(const GgufFile& gguf, size_t count) {
  const auto* types = gguf.find_ints(key("token_type"));
  if (!types) return std::vector<int64_t>(count, 1);
  if (types->size() != count) {
    throw FormatError(gguf.name(), fmt::format("{} has {} entries for {} tokens", key("token_type"),
                                               types->size(), count));
  }
  return *types;
}

std::optional<int32_t> id_of(const GgufFile& gguf, std::string_view name, size_t count) {
  const auto id = gguf.find_int(key(name));
  if (!id) return std::nullopt;
  if (*id < 0 || static_cast<uint64_t>(*id) >= count) {
    throw FormatError(gguf.name(), fmt::format("{} is {}, of {} tokens", key(name), *id, count));
  }
  return static_cast<int32_t>(*id);
}

Json byte_level(bool use_regex) {
  return Json::object(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}});
}

Json isolated(std::string_view regex) {
  return Json::object(
      {{"type", "Split"}, {"pattern", Json::object({{"Regex", regex}})}, {"behavior", "Isolated"}});
}

Json sequence(Json::Array steps) {
  return Json::object({{"type", "Sequence"}, {"pretokenizers", std::move(steps)}});
}

enum class Family : uint8_t { kDefault, kGpt2, kLlama3, kQwen2, kSmollm };

struct PreName {
  std::string_view name;
  Family family;
  bool ignore_merges;
  bool add_bos;  // where the file has no add_bos_token
};

// Names that converters write for models whose published tokenizer.json has the family's steps.
constexpr std::array kPreNames = {
    PreName{"default", Family::kDefault, false, false},
    PreName{"gpt-2", Family::kGpt2, false, false},
    PreName{"phi-2", Family::kGpt2, false, false},
    PreName{"olmo", Family::kGpt2, false, false},
    PreName{"mpt", Family::kGpt2, false, false},
    PreName{"jais", Family::kGpt2, false, false},
    PreName{"llama-bpe", Family::kLlama3, true, true},
    PreName{"llama3", Family::kLlama3, true, true},
    PreName{"llama-v3", Family::kLlama3, true, true},
    PreName{"falcon3", Family::kLlama3, true, true},
    PreName{"dbrx", Family::kLlama3, false, false},
    PreName{"smaug-bpe", Family::kLlama3, false, false},
    PreName{"qwen2", Family::kQwen2, false, false},
    PreName{"deepseek-r1-qwen", Family::kQwen2, false, false},
    PreName{"smollm", Family::kSmollm, false, false},
    PreName{"starcoder", Family::kSmollm, false, false},
    PreName{"refact", Family::kSmollm, false, false},
    PreName{"codeshell", Family::kSmollm, false, false},
};

const PreName& pre_name(const GgufFile& gguf) {
  // Files from before the key existed are to be read as "default".
  const std::string_view name = gguf.find_string(key("pre")).value_or("default");
  for (const PreName& known : kPreNames) {
    if (known.name == name) return known;
  }
  throw ConfigError(gguf.name() + ": " + key("pre"),
                    fmt::format("the pre-tokeniser '{}' is not supported", name));
}

Json pre_tokenizer(Family family) {
  switch (family) {
    case Family::kGpt2: return byte_level(true);
    case Family::kLlama3: return sequence({isolated(kLlama3Regex), byte_level(false)});
    case Family::kQwen2: return sequence({isolated(kQwen2Regex), byte_level(false)});
    case Family::kSmollm:
      return sequence(
          {Json::object({{"type", "Digits"}, {"individual_digits", true}}), byte_level(true)});
    case Family::kDefault:
      // What GGML's readers do with such files, one split after the other.
      return sequence({isolated(R"([\p{P}\$\+<=>\^~\|]+)"), isolated(kGpt2Regex),
                       isolated(R"(\p{N}+)"), isolated("[0-9][0-9][0-9]"), byte_level(false)});
  }
  return nullptr;
}

TokenizerConfig config_of(const GgufFile& gguf, const std::vector<std::string_view>& tokens) {
  TokenizerConfig config;
  const auto name = [&](std::string_view what) -> std::optional<std::string> {
    const auto id = id_of(gguf, what, tokens.size());
    if (!id) return std::nullopt;
    return std::string(tokens[static_cast<size_t>(*id)]);
  };
  config.bos_token = name("bos_token_id");
  config.eos_token = name("eos_token_id");
  config.unk_token = name("unknown_token_id");
  config.pad_token = name("padding_token_id");
  config.add_bos_token = gguf.find_bool(key("add_bos_token"));
  config.add_eos_token = gguf.find_bool(key("add_eos_token"));
  return config;
}

Tokenizer from_gpt2(const GgufFile& gguf) {
  const auto& tokens = strings(gguf, "tokens");
  const PreName& pre = pre_name(gguf);
  TokenizerJson json;
  json.model_type = "BPE";
  json.ignore_merges = pre.ignore_merges;
  json.vocab.assign(tokens.begin(), tokens.end());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!is_valid_utf8(tokens[id])) {
      throw FormatError(gguf.name(), fmt::format("token {} is not valid UTF-8", id));
    }
  }
  for (const std::string_view merge : strings(gguf, "merges")) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      throw FormatError(gguf.name(), fmt::format("the merge '{}' is no pair", merge));
    }
    json.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  const std::vector<int64_t> types = token_types(gguf, tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] != kControl && types[id] != kUserDefined) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = tokens[id];
    token.special = types[id] == kControl;
    token.normalized = false;
    json.added_tokens.push_back(std::move(token));
  }
  // Qwen's own tokenizer.json normalises to NFC; GGUF does not record normalisers.
  if (pre.family == Family::kQwen2) json.normalizer = Json::object({{"type", "NFC"}});
  json.pre_tokenizer = pre_tokenizer(pre.family);
  json.decoder = Json::object({{"type", "ByteLevel"}});
  TokenizerConfig config = config_of(gguf, tokens);
  if (!config.add_bos_token) config.add_bos_token = pre.add_bos;
  return build_from_json(json, config, gguf.name());
}

Tokenizer from_llama(const GgufFile& gguf) {
  const auto& tokens = strings(gguf, "tokens");
  const auto* scores = gguf.find_doubles(key("scores"));
  if (!scores || scores->size() != tokens.size()) {
    throw FormatError(gguf.name(), key("scores") + " must have one score per token");
  }
  const std::vector<int64_t> types = token_types(gguf, tokens.size());
  SentencePieceModel model;
  model.model_type = SentencePieceModel::ModelType::kBpe;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] < 1 || types[id] > 6) {
      throw FormatError(gguf.name(),
                        fmt::format("token {} has the unknown type {}", id, types[id]));
    }
    model.pieces.push_back({std::string(tokens[id]), static_cast<float>((*scores)[id]),
                            static_cast<SentencePiece::Type>(types[id])});
  }
  model.bos_id = id_of(gguf, "bos_token_id", tokens.size()).value_or(1);
  model.eos_id = id_of(gguf, "eos_token_id", tokens.size()).value_or(2);
  model.unk_id = id_of(gguf, "unknown_token_id", tokens.size()).value_or(0);
  model.pad_id = id_of(gguf, "padding_token_id", tokens.size()).value_or(-1);
  model.add_dummy_prefix = gguf.find_bool(key("add_space_prefix")).value_or(true);
  model.remove_extra_whitespaces = gguf.find_bool(key("remove_extra_whitespaces")).value_or(false);
  return build_from_sentencepiece(model, config_of(gguf, tokens), gguf.name());
}

}  // namespace

Tokenizer tokenizer_from_gguf(const GgufFile& gguf) {
  const auto model = gguf.find_string(key("model"));
  if (!model) throw FormatError(gguf.name(), key("model") + " is missing");
  if (*model == "gpt2") return from_gpt2(gguf);
  if (*model == "llama") return from_llama(gguf);
  throw ConfigError(gguf.name() + ": " + key("model"),
                    fmt::format("the tokeniser '{}' is not supported", *model));
}

}  // namespace nanoflow
