// UTF-8 text and the few Unicode properties that tokenisers ask for. Properties come from utf8proc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nanoflow {

/// One decoded character: its code point and how many bytes it took.
struct CodePoint {
  char32_t value = 0;
  size_t length = 0;
};

/// Decodes the character at `text`, which must be valid UTF-8.
inline CodePoint decode_valid_utf8(const char* text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const auto tail = [&](size_t i) { return static_cast<char32_t>(byte(i) & 0x3f); };
  if (lead < 0xe0) return {static_cast<char32_t>(lead & 0x1f) << 6 | tail(1), 2};
  if (lead < 0xf0) return {static_cast<char32_t>(lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3};
  return {static_cast<char32_t>(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

/// Whether `byte` continues a character rather than begins one.
inline bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

/// Appends a code point as UTF-8.
void append_utf8(std::string& out, char32_t value);

/// Length of the longest valid UTF-8 prefix of `bytes`; equal to its size when all is valid.
size_t valid_utf8_prefix(std::string_view bytes);

[[nodiscard]] bool is_valid_utf8(std::string_view bytes);
[[nodiscard]] bool is_ascii(std::string_view bytes);

/// The character that ends just before `end` in valid UTF-8 (end > 0).
[[nodiscard]] CodePoint decode_before(std::string_view text, size_t end);

/// How many bytes at `pos`, where no valid character begins, one U+FFFD stands for: the longest
/// prefix of some valid character ("maximal subpart", Unicode 15, section 3.9), at least 1.
/// `incomplete` tells whether the text merely ended inside that character.
size_t invalid_utf8_length(std::string_view bytes, size_t pos, bool& incomplete);

enum class CharClass : uint8_t { kLetter, kNumber, kSpace, kOther };

/// \p{L}, \p{N} (all of Nd, Nl, No) or \s (White_Space); else kOther. Unicode data of utf8proc.
/// The three are disjoint.
CharClass char_class(char32_t value);

/// \w of UTS #18, annex C: alphabetics, marks, decimal numbers, connectors, join controls.
[[nodiscard]] bool is_word_char(char32_t value);

/// What a byte that belongs to no character becomes.
enum class BadBytes : uint8_t {
  kPerSequence,  ///< one U+FFFD per maximal subpart (Unicode 15, section 3.9)
  kPerByte,      ///< one U+FFFD per byte (SentencePiece)
};

/// Moves text from `bytes` to the end of `out`, replacing what is no UTF-8. Unless `final`, the
/// start of a character whose rest may still come stays in `bytes` (at most three bytes).
void drain_utf8(std::string& bytes, bool final, BadBytes bad, std::string& out);

/// Unicode normalisation forms.
enum class UnicodeForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

/// `text` (valid UTF-8, may contain U+0000) in a normalisation form.
[[nodiscard]] std::string normalize_unicode(std::string_view text, UnicodeForm form);

}  // namespace nanoflow
