// tokenizer.json: which declared steps are supported and what they mean here.
#include <fmt/format.h>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/tokenizer_builders.h"

namespace nanoflow {
namespace {

/// What the walk over a tokenizer.json collects.
struct Builder {
  const TokenizerJson& json;
  const std::string& name;
  TokenizerParts parts;
  std::vector<Normalizer::Step> normalizers;
  std::vector<PreTokenizer::Step> steps;
  bool byte_level = false;

  [[noreturn]] void refuse(std::string_view field, std::string_view what) const {
    throw ConfigError(fmt::format("{}: {}", name, field), fmt::format("{} is not supported", what));
  }
  [[noreturn]] void malformed(std::string_view field) const {
    throw FormatError(name, fmt::format("{} is missing or has the wrong type", field));
  }

  std::string text(const Json& object, std::string_view key) const {
    const Json* value = object.find(key);
    if (!value || !value->is_string()) malformed(key);
    return value->as_string();
  }
  bool flag(const Json& object, std::string_view key, bool fallback) const {
    const Json* value = object.find(key);
    if (!value || value->is_null()) return fallback;
    if (!value->is_bool()) malformed(key);
    return value->as_bool();
  }
  const Json::Array& list(const Json& object, std::string_view key) const {
    const Json* value = object.find(key);
    if (!value || !value->is_array()) malformed(key);
    return value->as_array();
  }

  void normalizer(const Json& step);
  void pre_tokenizer(const Json& step);
  void split(const Json& step);
  void metaspace(const Json& step);
  void post_processor(const Json& step);
  void decoder(const Json& step);
  void decoder_step(const Json& step);
  void model();
  void merges(const StringTable& texts, BpeModel& bpe) const;
};

void Builder::normalizer(const Json& step) {
  if (step.is_null()) return;
  const std::string type = text(step, "type");
  if (type == "Sequence") {
    for (const Json& inner : list(step, "normalizers")) normalizer(inner);
  } else if (type == "NFC") {
    normalizers.emplace_back(UnicodeForm::kNfc);
  } else if (type == "NFD") {
    normalizers.emplace_back(UnicodeForm::kNfd);
  } else if (type == "NFKC") {
    normalizers.emplace_back(UnicodeForm::kNfkc);
  } else if (type == "NFKD") {
    normalizers.emplace_back(UnicodeForm::kNfkd);
  } else if (type == "Prepend") {
    normalizers.emplace_back(PrependStep{text(step, "prepend")});
  } else if (type == "Replace") {
    const Json* pattern = step.find("pattern");
    const Json* literal = pattern ? pattern->find("String") : nullptr;
    if (!literal || !literal->is_string() || literal->as_string().empty()) {
      refuse("normalizer Replace", "a pattern that is no literal string");
    }
    normalizers.emplace_back(ReplaceStep{literal->as_string(), text(step, "content")});
  } else {
    refuse("normalizer", type);
  }
}

void Builder::split(const Json& step) {
  const Json* pattern = step.find("pattern");
  const Json* regex = pattern ? pattern->find("Regex") : nullptr;
  const Json* literal = pattern ? pattern->find("String") : nullptr;
  const std::string behavior = text(step, "behavior");
  SplitStep split;
  split.invert = flag(step, "invert", false);
  if (behavior == "Removed") {
    split.behavior = SplitBehavior::kRemoved;
  } else if (behavior == "Isolated") {
    split.behavior = SplitBehavior::kIsolated;
  } else if (behavior == "MergedWithPrevious") {
    split.behavior = SplitBehavior::kMergedWithPrevious;
  } else if (behavior == "MergedWithNext") {
    split.behavior = SplitBehavior::kMergedWithNext;
  } else if (behavior == "Contiguous") {
    split.behavior = SplitBehavior::kContiguous;
  } else {
    refuse("pre_tokenizer Split behavior", behavior);
  }
  if (regex && regex->is_string()) {
    // The scanners' pieces tile the text, so keeping the matches keeps everything.
    const bool keeps_matches = split.behavior == SplitBehavior::kIsolated ||
                               (split.behavior == SplitBehavior::kRemoved && split.invert);
    if (const auto known = known_pattern(regex->as_string()); known && keeps_matches) {
      steps.emplace_back(*known);
      return;
    }
    split.pattern = std::make_shared<const RegexSplitter>(regex->as_string());
  } else if (literal && literal->is_string() && !literal->as_string().empty()) {
    split.pattern = literal->as_string();
  } else {
    malformed("pre_tokenizer Split pattern");
  }
  steps.emplace_back(std::move(split));
}

void Builder::metaspace(const Json& step) {
  if (parts.metaspace || !steps.empty() || byte_level) {
    refuse("pre_tokenizer", "Metaspace beside other steps");
  }
  if (text(step, "replacement") != kSpaceMark) {
    refuse("pre_tokenizer Metaspace replacement", text(step, "replacement"));
  }
  Metaspace result;
  result.split = flag(step, "split", true);
  // Files of before 2024 have add_prefix_space instead of prepend_scheme.
  std::string scheme = flag(step, "add_prefix_space", true) ? "always" : "never";
  if (step.find("prepend_scheme")) scheme = text(step, "prepend_scheme");
  if (scheme == "always") {
    result.prepend = Metaspace::Prepend::kAlways;
  } else if (scheme == "first") {
    result.prepend = Metaspace::Prepend::kFirst;
  } else if (scheme != "never") {
    refuse("pre_tokenizer Metaspace prepend_scheme", scheme);
  }
  parts.metaspace = result;
}

void Builder::pre_tokenizer(const Json& step) {
  if (step.is_null()) return;
  const std::string type = text(step, "type");
  if (type == "Sequence") {
    for (const Json& inner : list(step, "pretokenizers")) pre_tokenizer(inner);
    return;
  }
  if (byte_level || parts.metaspace) refuse("pre_tokenizer", type + " after the last step");
  if (type == "Split") {
    split(step);
  } else if (type == "Digits") {
    const uint32_t max_digits = flag(step, "individual_digits", false) ? 1 : 0;
    steps.emplace_back(PiecePattern{PiecePattern::Kind::kDigits, max_digits});
  } else if (type == "Metaspace") {
    metaspace(step);
  } else if (type == "ByteLevel") {
    parts.add_prefix_space = flag(step, "add_prefix_space", true);
    if (parts.add_prefix_space && !steps.empty()) {
      refuse("pre_tokenizer ByteLevel", "add_prefix_space after a split");
    }
    if (flag(step, "use_regex", true)) {
      steps.emplace_back(PiecePattern{PiecePattern::Kind::kGpt2, 0});
    }
    byte_level = true;
  } else {
    refuse("pre_tokenizer", type);
  }
}

void Builder::post_processor(const Json& step) {
  if (step.is_null()) return;
  const std::string type = text(step, "type");
  if (type == "Sequence") {
    for (const Json& inner : list(step, "processors")) post_processor(inner);
    return;
  }
  if (type == "ByteLevel") return;  // offsets only
  if (type != "TemplateProcessing") refuse("post_processor", type);
  bool behind = false;
  for (const Json& item : list(step, "single")) {
    if (item.find("Sequence")) {
      behind = true;
      continue;
    }
    const Json* special = item.find("SpecialToken");
    if (!special) malformed("post_processor single");
    const std::string id = text(*special, "id");
    const Json* table = step.find("special_tokens");
    const Json* entry = table ? table->find(id) : nullptr;
    if (!entry) malformed("post_processor special_tokens");
    for (const Json& value : list(*entry, "ids")) {
      if (!value.is_int()) malformed("post_processor ids");
      const auto limit = static_cast<int64_t>(parts.texts.size());
      if (value.as_int() < 0 || value.as_int() >= limit) {
        throw FormatError(name, fmt::format("post_processor: id {} is no token", value.as_int()));
      }
      (behind ? parts.suffix : parts.prefix).push_back(static_cast<int32_t>(value.as_int()));
    }
  }
}

void Builder::decoder_step(const Json& step) {
  const std::string type = text(step, "type");
  DecodeRules& rules = parts.decode;
  if (type == "ByteLevel") {
    rules.sentencepiece = false;
  } else if (type == "ByteFallback" || type == "Fuse") {
    rules.sentencepiece = true;
  } else if (type == "Replace") {
    const Json* pattern = step.find("pattern");
    const Json* literal = pattern ? pattern->find("String") : nullptr;
    if (!literal || *literal != Json(kSpaceMark) || text(step, "content") != " ") {
      refuse("decoder Replace", "anything but U+2581 to a space");
    }
    rules.sentencepiece = true;
  } else if (type == "Strip") {
    const Json* start = step.find("start");
    const Json* stop = step.find("stop");
    if (!start || !start->is_int() || !stop || !stop->is_int()) malformed("decoder Strip");
    if (text(step, "content") != " " || start->as_int() < 0 || start->as_int() > 1 ||
        stop->as_int() != 0) {
      refuse("decoder Strip", "anything but one space at the start");
    }
    rules.strip_left = static_cast<int32_t>(start->as_int());
  } else if (type == "Metaspace") {
    rules.sentencepiece = true;
    std::string scheme = flag(step, "add_prefix_space", true) ? "always" : "never";
    if (step.find("prepend_scheme")) scheme = text(step, "prepend_scheme");
    rules.first_drops_marks = scheme != "never";
  } else {
    refuse("decoder", type);
  }
}

void Builder::decoder(const Json& step) {
  if (step.is_null()) refuse("decoder", "a missing decoder");
  if (text(step, "type") != "Sequence") return decoder_step(step);
  for (const Json& inner : list(step, "decoders")) decoder_step(inner);
}

void Builder::merges(const StringTable& texts, BpeModel& bpe) const {
  const TokenIndex index(texts);
  std::string joined;
  bpe.merges.reserve(json.merges.size());
  for (size_t i = 0; i < json.merges.size(); ++i) {
    const auto& [left, right] = json.merges[i];
    joined.assign(left).append(right);
    const Merge merge{index.find(texts, left), index.find(texts, right), static_cast<uint32_t>(i),
                      index.find(texts, joined)};
    if (merge.left < 0 || merge.right < 0 || merge.result < 0) {
      throw FormatError(name, fmt::format("merge {} ('{}', '{}') is of tokens that the vocabulary "
                                          "does not have",
                                          i, left, right));
    }
    bpe.merges.push_back(merge);
  }
}

void Builder::model() {
  BpeModel bpe;
  bpe.units = byte_level ? BpeUnits::kBytes : BpeUnits::kCharacters;
  bpe.ignore_merges = json.ignore_merges;
  bpe.fuse_unk = json.fuse_unk;
  bpe.byte_tokens.fill(-1);
  StringTable texts;
  std::string bytes;
  for (const std::string& token : json.vocab) {
    texts.push_back(token);
    if (!byte_level) {
      bpe.tokens.push_back(token);
    } else {
      bpe.tokens.push_back(bytes_of_byte_level(token, bytes) ? bytes : std::string());
    }
  }
  const TokenIndex index(texts);
  if (!json.unk_token.empty()) {
    bpe.unk_id = index.find(texts, json.unk_token);
    if (bpe.unk_id < 0) throw FormatError(name, "unk_token is not in the vocabulary");
    parts.unk = bpe.unk_id;
  }
  for (size_t b = 0; json.byte_fallback && !byte_level && b < 256; ++b) {
    bpe.byte_tokens[b] = index.find(texts, fmt::format("<0x{:02X}>", b));
  }
  if (bpe.byte_tokens[0] >= 0) {
    parts.byte_token_ids.assign(bpe.byte_tokens.begin(), bpe.byte_tokens.end());
    for (const int32_t id : parts.byte_token_ids) {
      if (id < 0) throw FormatError(name, "some of the tokens <0x00> to <0xFF> are missing");
    }
  }
  merges(texts, bpe);
  parts.texts = std::move(texts);
  parts.bpe = std::move(bpe);
}

}  // namespace

Tokenizer build_from_json(const TokenizerJson& json, const TokenizerConfig& config,
                          const std::string& name) {
  Builder builder{json, name, {}, {}, {}, false};
  if (json.model_type != "BPE") builder.refuse("model", json.model_type);
  if (!json.continuing_subword_prefix.empty() || !json.end_of_word_suffix.empty()) {
    builder.refuse("model", "a subword prefix or suffix");
  }
  builder.normalizer(json.normalizer);
  builder.pre_tokenizer(json.pre_tokenizer);
  builder.decoder(json.decoder);
  builder.model();
  TokenizerParts& parts = builder.parts;
  parts.normalizer = Normalizer(std::move(builder.normalizers));
  parts.pre_tokenizer = PreTokenizer(std::move(builder.steps));
  apply_config(parts, json.added_tokens, config, name);
  builder.post_processor(json.post_processor);
  // Where no file names a bos or eos, the template shows them.
  if (!parts.bos && !parts.prefix.empty()) parts.bos = parts.prefix.front();
  if (!parts.eos && !parts.suffix.empty()) parts.eos = parts.suffix.back();
  apply_bos_eos(parts, config);
  return make_tokenizer(std::move(parts));
}

}  // namespace nanoflow
