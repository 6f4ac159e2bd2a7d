#include "api/printable.h"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace nanoflow {
namespace {

bool is_continuation(char c) {
  return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u;
}

struct Scanned {
  uint32_t value = 0;
  size_t bytes = 0;  ///< 0: no UTF-8
};

/// The first code point of `text`, which is not empty.
Scanned first_code_point(std::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {};
  uint32_t value = lead & (0xFFu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if (!is_continuation(text[i])) return {};
    value = value << 6 | (byte(i) & 0x3Fu);
  }
  const bool overlong = (bytes == 3 && value < 0x800) || (bytes == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (overlong || surrogate || value > 0x10FFFF) return {};
  return {value, bytes};
}

bool is_control(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c <= 0x9F) || (c >= 0x2028 && c <= 0x202E) ||
         (c >= 0x2066 && c <= 0x2069);
}

std::string escaped(std::string_view text, bool keep_lines) {
  std::string out;
  while (!text.empty()) {
    const Scanned c = first_code_point(text);
    if (c.bytes == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
      text.remove_prefix(1);
      continue;
    }
    if (keep_lines ? (c.value == '\n' || c.value == '\t' || !is_control(c.value))
                   : (c.value != '\\' && !is_control(c.value))) {
      out += text.substr(0, c.bytes);
    } else {
      switch (c.value) {
        case '\\': out += "\\\\"; break;
        case '\n': out += "\\n"; break;
        case '\r': out += "\\r"; break;
        case '\t': out += "\\t"; break;
        default: out += fmt::format("\\u{:04x}", c.value);
      }
    }
    text.remove_prefix(c.bytes);
  }
  return out;
}

}  // namespace

std::string one_line(std::string_view text) {
  return escaped(text, false);
}

std::string terminal_text(std::string_view text) {
  return escaped(text, true);
}

std::string shortened(std::string_view text, size_t max_characters) {
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_continuation(text[i])) continue;
    if (characters++ == max_characters) return std::string(text.substr(0, i)) + "...";
  }
  return std::string(text);
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

}  // namespace nanoflow
