// Hugging Face's tokenizer.json as plain structs. What the parts do is text/'s business.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace nanoflow {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;
  bool lstrip = false;       ///< swallows white space to its left
  bool rstrip = false;       ///< ... to its right
  bool normalized = true;    ///< matched after normalisation
  bool single_word = false;  ///< only where no word character is beside it
};

struct TokenizerJson {
  std::string model_type;  ///< "BPE"; others are named here and have no vocabulary
  /// Token text by id; "" where the vocabulary has no token of that id (added tokens fill some).
  std::vector<std::string> vocab;
  /// Pairs to merge, the most important first.
  std::vector<std::pair<std::string, std::string>> merges;
  std::string unk_token;  ///< "" for none
  bool byte_fallback = false;
  bool fuse_unk = false;
  bool ignore_merges = false;
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  std::vector<AddedToken> added_tokens;
  Json normalizer;  ///< object or null; so are the next three
  Json pre_tokenizer;
  Json post_processor;
  Json decoder;
};

/// Throws IoError, or FormatError naming the field.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);
/// The same from memory; `name` stands for the path in messages.
TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& name);

}  // namespace nanoflow
