#include "text/piece_scanners.h"

#include <array>

#include "text/unicode.h"

namespace nanoflow {
namespace {

constexpr std::array<CharClass, 128> kAsciiClass = [] {
  std::array<CharClass, 128> table{};
  for (size_t c = 0; c < 128; ++c) {
    table[c] = CharClass::kOther;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) table[c] = CharClass::kLetter;
    if (c >= '0' && c <= '9') table[c] = CharClass::kNumber;
    if (c == ' ' || (c >= 0x09 && c <= 0x0D)) table[c] = CharClass::kSpace;
  }
  return table;
}();

struct ClassAt {
  CharClass cls;
  size_t end;  // of the character
};

ClassAt class_at(std::string_view text, size_t pos) {
  const auto b = static_cast<unsigned char>(text[pos]);
  if (b < 0x80) return {kAsciiClass[b], pos + 1};
  const CodePoint c = decode_valid_utf8(text.data() + pos);
  return {char_class(c.value), pos + c.length};
}

/// End of the run of class `cls` from `pos`, of at most `limit` characters (0: no limit).
size_t run_end(std::string_view text, size_t pos, CharClass cls, uint32_t limit = 0) {
  for (uint32_t count = 0; pos < text.size() && (limit == 0 || count < limit); ++count) {
    const ClassAt at = class_at(text, pos);
    if (at.cls != cls) break;
    pos = at.end;
  }
  return pos;
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

/// Bytes of 's 't 're 've 'm 'll 'd at `pos`, else 0. Regular expressions fold U+017F to s.
size_t contraction_length(std::string_view text, size_t pos, bool any_case) {
  if (text[pos] != '\'' || pos + 1 >= text.size()) return 0;
  const auto at = [&](size_t i) -> char {
    if (pos + i >= text.size()) return '\0';
    return any_case ? lower(text[pos + i]) : text[pos + i];
  };
  switch (at(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd': return 2;
    case 'r':
    case 'v': return at(2) == 'e' ? 3 : 0;
    case 'l': return at(2) == 'l' ? 3 : 0;
    case '\xC5': return any_case && at(2) == '\xBF' ? 3 : 0;
    default: return 0;
  }
}

/// `\s+(?!\S)|\s+` on the run [pos, end): all of it at the end of the text or when it is one
/// character; else without its last character, which belongs to what follows.
size_t space_end(std::string_view text, size_t pos, size_t end) {
  if (end == text.size()) return end;
  size_t last = end - 1;
  while (is_continuation(text[last])) --last;
  return last > pos ? last : end;
}

size_t next_gpt2(std::string_view text, size_t pos) {
  if (const size_t n = contraction_length(text, pos, false)) return pos + n;
  const ClassAt first = class_at(text, pos);
  if (first.cls != CharClass::kSpace) return run_end(text, first.end, first.cls);
  if (text[pos] == ' ' && pos + 1 < text.size()) {
    const ClassAt second = class_at(text, pos + 1);
    if (second.cls != CharClass::kSpace) return run_end(text, second.end, second.cls);
  }
  return space_end(text, pos, run_end(text, first.end, CharClass::kSpace));
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*` from the first of the others.
size_t others_end(std::string_view text, size_t pos) {
  pos = run_end(text, pos, CharClass::kOther);
  while (pos < text.size() && (text[pos] == '\r' || text[pos] == '\n')) ++pos;
  return pos;
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the run's last line break if it has one.
size_t llama3_space_end(std::string_view text, size_t pos, size_t end) {
  for (size_t i = end; i > pos; --i) {
    if (text[i - 1] == '\r' || text[i - 1] == '\n') return i;
  }
  return space_end(text, pos, end);
}

size_t next_llama3(std::string_view text, size_t pos, uint32_t max_digits) {
  if (const size_t n = contraction_length(text, pos, true)) return pos + n;
  const ClassAt first = class_at(text, pos);
  if (first.cls == CharClass::kLetter) return run_end(text, first.end, CharClass::kLetter);
  if (first.cls == CharClass::kNumber) return run_end(text, pos, CharClass::kNumber, max_digits);
  const bool more = first.end < text.size();
  const ClassAt second = more ? class_at(text, first.end) : ClassAt{CharClass::kSpace, pos};
  if (second.cls == CharClass::kLetter && text[pos] != '\r' && text[pos] != '\n') {
    return run_end(text, second.end, CharClass::kLetter);
  }
  if (first.cls == CharClass::kOther) return others_end(text, first.end);
  if (text[pos] == ' ' && second.cls == CharClass::kOther) return others_end(text, second.end);
  return llama3_space_end(text, pos, run_end(text, first.end, CharClass::kSpace));
}

size_t next_digits(std::string_view text, size_t pos, uint32_t max_digits) {
  const ClassAt first = class_at(text, pos);
  if (first.cls == CharClass::kNumber) return run_end(text, pos, CharClass::kNumber, max_digits);
  for (pos = first.end; pos < text.size();) {
    const ClassAt at = class_at(text, pos);
    if (at.cls == CharClass::kNumber) break;
    pos = at.end;
  }
  return pos;
}

}  // namespace

std::optional<PiecePattern> known_pattern(std::string_view regex) {
  using Kind = PiecePattern::Kind;
  if (regex == kGpt2Regex) return PiecePattern{Kind::kGpt2, 0};
  if (regex == kLlama3Regex) return PiecePattern{Kind::kLlama3, 3};
  if (regex == kQwen2Regex) return PiecePattern{Kind::kLlama3, 1};
  return std::nullopt;
}

size_t next_piece(const PiecePattern& pattern, std::string_view text, size_t pos) {
  switch (pattern.kind) {
    case PiecePattern::Kind::kGpt2: return next_gpt2(text, pos);
    case PiecePattern::Kind::kLlama3: return next_llama3(text, pos, pattern.max_digits);
    case PiecePattern::Kind::kDigits: return next_digits(text, pos, pattern.max_digits);
  }
  return text.size();
}

}  // namespace nanoflow
