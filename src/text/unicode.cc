#include "text/unicode.h"

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

#include <simdjson.h>
#include <utf8proc.h>

#include "base/check.h"

namespace nanoflow {
namespace {

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

CharClass look_up(char32_t c) {
  if (is_space(c)) return CharClass::kSpace;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CharClass::kNumber;
    default: return CharClass::kOther;
  }
}

// All letters, numbers and spaces lie below this; beyond are tags, selectors and private use.
constexpr size_t kTableSize = 0x40000;
using ClassTable = std::array<CharClass, kTableSize>;

const ClassTable& class_table() {
  // A constant that takes milliseconds to compute, so it is made once, on first use.
  static const std::unique_ptr<const ClassTable> table = [] {
    auto made = std::make_unique<ClassTable>();
    for (size_t c = 0; c < kTableSize; ++c) (*made)[c] = look_up(static_cast<char32_t>(c));
    return made;
  }();
  return *table;
}

/// Second byte's range after each lead byte (Unicode 15, table 3-7), and the character's length.
struct Lead {
  size_t length;
  unsigned char low, high;
};

Lead lead_of(unsigned char byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

/// Bytes at `pos` that are a prefix of a valid character, and whether that is a whole one.
size_t character_prefix(std::string_view bytes, size_t pos, bool& whole) {
  const auto first = static_cast<unsigned char>(bytes[pos]);
  whole = first < 0x80;
  if (whole) return 1;
  const Lead lead = lead_of(first);
  size_t n = lead.length == 0 ? 0 : 1;
  for (; n < lead.length && pos + n < bytes.size(); ++n) {
    const auto byte = static_cast<unsigned char>(bytes[pos + n]);
    const bool fits = n == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xc0) == 0x80;
    if (!fits) break;
  }
  whole = lead.length > 0 && n == lead.length;
  return n;
}

}  // namespace

void append_utf8(std::string& out, char32_t value) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xc0 | value >> 6);
    put(0x80 | (value & 0x3f));
  } else if (value < 0x10000) {
    put(0xe0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  } else {
    put(0xf0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3f));
    put(0x80 | (value >> 6 & 0x3f));
    put(0x80 | (value & 0x3f));
  }
}

size_t valid_utf8_prefix(std::string_view bytes) {
  size_t pos = 0;
  bool whole = true;
  while (pos < bytes.size()) {
    const size_t size = character_prefix(bytes, pos, whole);
    if (!whole) break;
    pos += size;
  }
  return pos;
}

size_t invalid_utf8_length(std::string_view bytes, size_t pos, bool& incomplete) {
  bool whole = false;
  const size_t size = character_prefix(bytes, pos, whole);
  incomplete = size > 0 && pos + size == bytes.size();
  return size == 0 ? 1 : size;
}

bool is_valid_utf8(std::string_view bytes) {
  return simdjson::validate_utf8(bytes.data(), bytes.size());
}

bool is_ascii(std::string_view bytes) {
  unsigned char any = 0;
  for (const char c : bytes) any |= static_cast<unsigned char>(c);
  return any < 0x80;
}

CodePoint decode_before(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && is_continuation(text[start])) --start;
  return decode_valid_utf8(text.data() + start);
}

CharClass char_class(char32_t value) {
  return value < kTableSize ? class_table()[value] : CharClass::kOther;
}

bool is_word_char(char32_t value) {
  // Alphabetic without being letters: circled and squared Latin; and the join controls.
  if ((value >= 0x24B6 && value <= 0x24E9) || (value >= 0x1F130 && value <= 0x1F149) ||
      (value >= 0x1F150 && value <= 0x1F169) || (value >= 0x1F170 && value <= 0x1F189) ||
      value == 0x200C || value == 0x200D) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(value))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return false;
  }
}

void drain_utf8(std::string& bytes, bool final, BadBytes bad, std::string& out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    bool whole = false;
    const size_t size = character_prefix(bytes, pos, whole);
    if (whole) {
      out.append(bytes, pos, size);
      pos += size;
      continue;
    }
    if (!final && size > 0 && pos + size == bytes.size()) break;
    append_utf8(out, 0xFFFD);
    pos += bad == BadBytes::kPerByte || size == 0 ? 1 : size;
  }
  bytes.erase(0, pos);
}

std::string normalize_unicode(std::string_view text, UnicodeForm form) {
  int options = UTF8PROC_STABLE;
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
      static_cast<utf8proc_ssize_t>(text.size()), &result, static_cast<utf8proc_option_t>(options));
  if (length == UTF8PROC_ERROR_NOMEM) throw std::bad_alloc();
  NANO_CHECK(length >= 0, "utf8proc: {}", utf8proc_errmsg(length));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(length)};
}

}  // namespace nanoflow
