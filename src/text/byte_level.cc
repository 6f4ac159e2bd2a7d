#include "text/byte_level.h"

#include <array>
#include <cstdint>

#include "text/unicode.h"

namespace nanoflow {
namespace {

// Printable Latin-1 bytes stand for themselves; the other 68 take U+0100, U+0101, ... in order.
constexpr bool stands_for_itself(uint32_t b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

constexpr uint32_t kFirstExtra = 0x100;
constexpr uint32_t kCharacters = kFirstExtra + 68;

constexpr std::array<uint16_t, 256> kCharOfByte = [] {
  std::array<uint16_t, 256> table{};
  uint32_t extra = kFirstExtra;
  for (uint32_t b = 0; b < 256; ++b) {
    table[b] = static_cast<uint16_t>(stands_for_itself(b) ? b : extra++);
  }
  return table;
}();

constexpr std::array<int16_t, kCharacters> kByteOfChar = [] {
  std::array<int16_t, kCharacters> table{};
  for (int16_t& byte : table) byte = -1;
  for (uint32_t b = 0; b < 256; ++b) table[kCharOfByte[b]] = static_cast<int16_t>(b);
  return table;
}();

}  // namespace

bool bytes_of_byte_level(std::string_view token, std::string& out) {
  out.clear();
  for (size_t pos = 0; pos < token.size();) {
    const CodePoint c = decode_valid_utf8(token.data() + pos);
    if (c.value >= kCharacters || kByteOfChar[c.value] < 0) return false;
    out.push_back(static_cast<char>(kByteOfChar[c.value]));
    pos += c.length;
  }
  return true;
}

std::string byte_level_of_bytes(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) append_utf8(out, kCharOfByte[static_cast<unsigned char>(b)]);
  return out;
}

}  // namespace nanoflow
