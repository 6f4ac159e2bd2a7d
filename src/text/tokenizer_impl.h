// The parts of a Tokenizer, as the loaders put them together. For this folder only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_table.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace nanoflow {

/// The mark that SentencePiece writes for a space: U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

/// Hugging Face's Metaspace pre-tokeniser: spaces become marks, a mark may be put in front, and the
/// text may be cut before every mark.
struct Metaspace {
  enum class Prepend : uint8_t { kNever, kFirst, kAlways };
  Prepend prepend = Prepend::kNever;
  bool split = false;
};

/// How tokens become text.
struct DecodeRules {
  /// Marks become spaces and <0x..> tokens bytes; else the tokens spell bytes (byte-level).
  bool sentencepiece = false;
  int32_t strip_left = 0;          ///< spaces taken off the start of a text, at most
  bool first_drops_marks = false;  ///< Metaspace: the first token loses all its marks instead
};

struct AddedTokenEntry {
  AddedTokenPattern pattern;
  bool special = false;
  bool normalized = false;  ///< matched after normalisation; `pattern.content` already is
};

struct TokenizerParts {
  StringTable texts;            ///< by id: the token as the vocabulary spells it
  std::optional<BpeModel> bpe;  ///< always set by a loader
  std::vector<AddedTokenEntry> added;
  Normalizer normalizer;
  std::optional<Metaspace> metaspace;
  bool add_prefix_space = false;  ///< ByteLevel's: a space in front of every text
  PreTokenizer pre_tokenizer;
  DecodeRules decode;
  std::vector<int32_t> byte_token_ids;  ///< sentencepiece: ids of <0x00>..<0xFF>, or empty
  std::vector<int32_t> prefix, suffix;  ///< added around a text
  std::optional<int32_t> bos, eos, unk, pad;
};

class Tokenizer::Impl {
 public:
  explicit Impl(TokenizerParts parts);

  [[nodiscard]] Result<std::vector<int32_t>> encode(std::string_view text,
                                                    const EncodeOptions& options) const;

  [[nodiscard]] bool contains(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < texts_.size();
  }
  [[nodiscard]] std::string_view text(int32_t id) const {
    return contains(id) ? texts_[static_cast<size_t>(id)] : std::string_view();
  }
  [[nodiscard]] std::string_view bytes(int32_t id) const {
    return contains(id) ? bytes_[static_cast<size_t>(id)] : std::string_view();
  }
  [[nodiscard]] std::optional<int32_t> find(std::string_view token_text) const;
  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  [[nodiscard]] bool is_special(int32_t id) const {
    return contains(id) && (flags_[static_cast<size_t>(id)] & kSpecial) != 0;
  }
  /// Whether the token's bytes are whole characters by themselves.
  [[nodiscard]] bool is_whole_text(int32_t id) const {
    return contains(id) && (flags_[static_cast<size_t>(id)] & kWholeText) != 0;
  }
  /// Whether it is a byte-fallback token.
  [[nodiscard]] bool is_byte(int32_t id) const {
    return contains(id) && (flags_[static_cast<size_t>(id)] & kByte) != 0;
  }
  [[nodiscard]] const DecodeRules& decode_rules() const { return decode_; }
  [[nodiscard]] const TokenizerParts& parts() const { return parts_; }

 private:
  struct Call;  // one encode(): its output and working memory
  static constexpr uint8_t kSpecial = 1, kWholeText = 2, kByte = 4;

  void build_bytes();
  void build_matchers();
  [[nodiscard]] bool encode_raw(Call& call, std::string_view text,
                                const EncodeOptions& options) const;
  [[nodiscard]] std::string_view normalize(Call& call, std::string_view text, size_t offset,
                                           const EncodeOptions& options) const;
  [[nodiscard]] bool encode_normalized(Call& call, std::string_view text, bool at_start,
                                       bool parse_special) const;
  [[nodiscard]] bool encode_segment(Call& call, std::string_view text, bool at_start) const;
  void encode_marked(Call& call, std::string_view text) const;

  TokenizerParts parts_;
  StringTable texts_;
  StringTable bytes_;
  TokenIndex text_index_;
  std::vector<uint8_t> flags_;
  DecodeRules decode_;
  // No token of BPE has a space mark after another character, so pieces may be cut there without
  // changing what merges: long texts become many short pieces. Decided before bpe_ takes the model.
  bool words_are_separate_;
  Bpe bpe_;
  // Added tokens to find before and after normalisation; [1] with the special ones.
  AddedTokenMatcher raw_matchers_[2];
  AddedTokenMatcher normalized_matchers_[2];
  bool normalizes_special_ = false;  // some special token is matched after normalisation
};

}  // namespace nanoflow
