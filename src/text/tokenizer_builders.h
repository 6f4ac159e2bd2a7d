// One builder per kind of vocabulary file: parsed files in, a Tokenizer out. For this folder's
// loader and tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/sentencepiece_model.h"
#include "formats/tiktoken_model.h"
#include "formats/tokenizer_json.h"
#include "text/tokenizer_impl.h"

namespace nanoflow {

/// What stands beside the vocabulary: tokenizer_config.json, special_tokens_map.json and
/// added_tokens.json of a Hugging Face folder, or a GGUF file's keys.
struct TokenizerConfig {
  std::optional<std::string> bos_token, eos_token, unk_token, pad_token;
  std::vector<std::string> additional_special_tokens;
  std::vector<AddedToken> added_tokens;
  std::optional<bool> add_bos_token, add_eos_token;  ///< unset: the vocabulary file's own rule
  std::optional<bool> legacy;  ///< SentencePiece folders: a mark in front of every segment
};

/// Reads those files where they exist. Throws FormatError or ConfigError naming the field.
[[nodiscard]] TokenizerConfig read_tokenizer_config(const std::filesystem::path& dir);

/// `name` stands for the file in messages. All throw ConfigError for what is not supported and
/// FormatError for what contradicts itself.
[[nodiscard]] Tokenizer build_from_json(const TokenizerJson& json, const TokenizerConfig& config,
                                        const std::string& name);
[[nodiscard]] Tokenizer build_from_sentencepiece(const SentencePieceModel& model,
                                                 const TokenizerConfig& config,
                                                 const std::string& name);
/// `pattern`: what the ranks were trained with; the file does not say.
[[nodiscard]] Tokenizer build_from_tiktoken(const TiktokenRanks& ranks, const PiecePattern& pattern,
                                            const Normalizer& normalizer,
                                            const TokenizerConfig& config);

// --- Shared by the builders (tokenizer_builders.cc) ---------------------------------------------

/// Tokens that merge: id and the bytes (or marked text) it stands for, with the rank of making it.
struct RankedToken {
  int32_t id = -1;
  uint32_t rank = 0;
};

/// Every way to make a token of two others, for vocabularies that list no merges: all cuts of a
/// token into two parts that are tokens. Cuts lie between characters unless `bytes`.
[[nodiscard]] std::vector<Merge> merges_of_ranks(const StringTable& tokens,
                                                 const std::vector<RankedToken>& ranked,
                                                 bool bytes);

/// Adds config's tokens to `added` (by id or content, later flags win), marks the named ones
/// special and sets parts.bos and so on. parts.texts grows to hold all ids.
void apply_config(TokenizerParts& parts, std::vector<AddedToken> added,
                  const TokenizerConfig& config, const std::string& name);

/// Replaces a bos at the start and an eos at the end of the template by what config says.
void apply_bos_eos(TokenizerParts& parts, const TokenizerConfig& config);

/// Wraps up: the Impl of `parts`.
[[nodiscard]] Tokenizer make_tokenizer(TokenizerParts parts);

}  // namespace nanoflow
