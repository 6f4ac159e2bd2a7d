#include "text/jinja_string.h"

#include <algorithm>
#include <cstring>

#include <utf8proc.h>

namespace nanoflow::jinja {

size_t char_bytes(std::string_view text, size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  const size_t bytes = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  return std::min(bytes, text.size() - at);
}

char32_t next_char(std::string_view text, size_t& at) {
  const size_t bytes = char_bytes(text, at);
  const auto first = static_cast<unsigned char>(text[at]);
  char32_t c = bytes == 1 ? first : first & (0xff >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i)
    c = (c << 6) | (static_cast<unsigned char>(text[at + i]) & 0x3f);
  at += bytes;
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

size_t utf8_length(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

size_t utf8_offset(std::string_view text, size_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    at += char_bytes(text, at);
    --index;
  }
  return at;
}

size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  const void* at = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (at == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

size_t search_steps(std::string_view text, std::string_view part, bool from_end) {
  // memmem compares up to 256 bytes at each place in the worst case; rfind compares all.
  const size_t compared = from_end ? part.size() : std::min<size_t>(part.size(), 256);
  size_t bytes = 0;
  if (__builtin_mul_overflow(text.size(), compared, &bytes)) bytes = SIZE_MAX / 2;
  return 1 + text.size() / 64 + bytes / 128;
}

bool is_valid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t c = 0;
    const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                    static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    if (n <= 0) return false;
    at += static_cast<size_t>(n);
  }
  return true;
}

namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_letter(char32_t c) {
  const auto cat = category(c);
  return cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO;
}

// Python's str.lower/upper use full case mappings; utf8proc has the simple ones. These are the
// unconditional entries of Unicode's SpecialCasing that people's text contains.
std::string_view special_upper(char32_t c) {
  switch (c) {
    case 0xdf: return "SS";
    case 0x149: return "\u02bcN";
    case 0x1f0: return "J\u030c";
    case 0x390: return "\u0399\u0308\u0301";
    case 0x3b0: return "\u03a5\u0308\u0301";
    case 0x587: return "\u0535\u0552";
    case 0x1e96: return "H\u0331";
    case 0x1e97: return "T\u0308";
    case 0x1e98: return "W\u030a";
    case 0x1e99: return "Y\u030a";
    case 0x1e9a: return "A\u02be";
    case 0xfb00: return "FF";
    case 0xfb01: return "FI";
    case 0xfb02: return "FL";
    case 0xfb03: return "FFI";
    case 0xfb04: return "FFL";
    case 0xfb05:
    case 0xfb06: return "ST";
    default: return {};
  }
}

void append_upper(std::string& out, char32_t c) {
  const std::string_view special = c < 0x80 ? std::string_view{} : special_upper(c);
  if (!special.empty()) {
    out += special;
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, char32_t c) {
  switch (c) {
    case 0xdf: out += "Ss"; return;
    case 0xfb00: out += "Ff"; return;
    case 0xfb01: out += "Fi"; return;
    case 0xfb02: out += "Fl"; return;
    case 0xfb03: out += "Ffi"; return;
    case 0xfb04: out += "Ffl"; return;
    case 0xfb05:
    case 0xfb06: out += "St"; return;
    default: break;
  }
  if (c >= 0x80 && !special_upper(c).empty()) {
    append_upper(out, c);
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) {
  const auto cat = category(c);
  return cat == UTF8PROC_CATEGORY_LU || cat == UTF8PROC_CATEGORY_LL || cat == UTF8PROC_CATEGORY_LT;
}

bool is_case_ignorable(char32_t c) {
  const auto cat = category(c);
  return cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME ||
         cat == UTF8PROC_CATEGORY_CF || cat == UTF8PROC_CATEGORY_LM ||
         cat == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xb7 ||
         c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027;
}

// Unicode's Final_Sigma: a cased letter before, none after.
bool is_final_sigma(std::string_view text, size_t at, size_t after) {
  bool cased_before = false;
  size_t i = at;
  while (i > 0) {
    do --i;
    while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80);
    size_t p = i;
    const char32_t c = next_char(text, p);
    if (is_case_ignorable(c)) continue;
    cased_before = is_cased(c);
    break;
  }
  while (cased_before && after < text.size()) {
    const char32_t c = next_char(text, after);
    if (is_case_ignorable(c)) continue;
    return !is_cased(c);
  }
  return cased_before;
}

void append_lower(std::string& out, std::string_view text, size_t at) {
  size_t after = at;
  const char32_t c = next_char(text, after);
  if (c == 0x3a3) {
    out += is_final_sigma(text, at, after) ? "\u03c2" : "\u03c3";
  } else if (c == 0x130) {
    out += "i\u0307";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_line_end(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// Byte ranges of the words between runs of whitespace.
std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> out;
  size_t start = std::string_view::npos;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const bool space = is_space(next_char(text, at));
    if (space && start != std::string_view::npos) {
      out.push_back(text.substr(start, begin - start));
      start = std::string_view::npos;
    } else if (!space && start == std::string_view::npos) {
      start = begin;
    }
  }
  if (start != std::string_view::npos) out.push_back(text.substr(start));
  return out;
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

std::string_view strip(std::string_view text, const std::string_view* chars, bool left,
                       bool right) {
  const auto drop = [&](std::string_view one) {
    size_t at = 0;
    if (chars == nullptr) return is_space(next_char(one, at));
    return chars->find(one) != std::string_view::npos;
  };
  while (left && !text.empty()) {
    const size_t bytes = char_bytes(text, 0);
    if (!drop(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
    if (!drop(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_upper(out, next_char(text, at));
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) append_lower(out, text, at);
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) {
    size_t p = at;
    if (at == 0) {
      append_title(out, next_char(text, p));
    } else {
      append_lower(out, text, at);
    }
  }
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size(); at += char_bytes(text, at)) {
    size_t p = at;
    const char32_t c = next_char(text, p);
    if (inside) {
      append_lower(out, text, at);
    } else {
      append_title(out, c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::vector<std::string_view> split(std::string_view text, const std::string_view* sep,
                                    int64_t max_split) {
  std::vector<std::string_view> out;
  if (sep == nullptr) {
    if (max_split < 0) return words(text);
    text = strip(text, nullptr, true, false);
    while (!text.empty() && max_split-- > 0) {
      size_t at = 0;
      size_t end = 0;
      while (at < text.size()) {
        end = at;
        if (is_space(next_char(text, at))) break;
        end = at;
      }
      out.push_back(text.substr(0, end));
      text = strip(text.substr(end), nullptr, true, false);
    }
    if (!text.empty()) out.push_back(text);
    return out;
  }
  while (max_split-- != 0) {
    const size_t at = find_text(text, *sep);
    if (at == std::string_view::npos) break;
    out.push_back(text.substr(0, at));
    text.remove_prefix(at + sep->size());
  }
  out.push_back(text);
  return out;
}

std::vector<std::string_view> rsplit(std::string_view text, const std::string_view* sep,
                                     int64_t max_split) {
  if (max_split < 0) return split(text, sep, -1);
  std::vector<std::string_view> out;
  if (sep == nullptr) {
    const std::vector<std::string_view> all = words(text);
    const size_t tail = std::min(all.size(), static_cast<size_t>(max_split));
    if (all.size() > tail) {
      const std::string_view last = all[all.size() - tail - 1];
      const char* begin = text.data();
      const std::string_view head(begin, static_cast<size_t>(last.data() + last.size() - begin));
      out.push_back(head);
    }
    out.insert(out.end(), all.end() - static_cast<std::ptrdiff_t>(tail), all.end());
    return out;
  }
  while (max_split-- > 0) {
    const size_t at = text.rfind(*sep);
    if (at == std::string_view::npos) break;
    out.push_back(text.substr(at + sep->size()));
    text = text.substr(0, at);
  }
  out.push_back(text);
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> splitlines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(start, (keep_ends ? at : begin) - start));
    start = at;
  }
  if (start < text.size()) out.push_back(text.substr(start));
  return out;
}

bool is_class(std::string_view text, std::string_view method) {
  bool cased = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_char(text, at);
    const auto cat = category(c);
    const bool decimal = cat == UTF8PROC_CATEGORY_ND;
    if (method == "isspace" && !is_space(c)) return false;
    if (method == "isalpha" && !is_letter(c)) return false;
    if ((method == "isdigit" || method == "isdecimal" || method == "isnumeric") && !decimal) {
      return false;
    }
    if (method == "isalnum" && !is_letter(c) && !decimal) return false;
    if (method == "isupper" && (cat == UTF8PROC_CATEGORY_LL || cat == UTF8PROC_CATEGORY_LT)) {
      return false;
    }
    if (method == "islower" && (cat == UTF8PROC_CATEGORY_LU || cat == UTF8PROC_CATEGORY_LT)) {
      return false;
    }
    cased = cased || is_cased(c);
  }
  if (method == "isupper" || method == "islower") return cased;
  return !text.empty();
}

}  // namespace nanoflow::jinja
