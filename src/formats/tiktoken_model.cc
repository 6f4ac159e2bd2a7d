#include "formats/tiktoken_model.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"

namespace nanoflow {
namespace {

constexpr std::array<int8_t, 256> kBase64 = [] {
  std::array<int8_t, 256> table{};
  table.fill(-1);
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kDigits.size(); ++i)
    table[static_cast<uint8_t>(kDigits[i])] = static_cast<int8_t>(i);
  return table;
}();

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  size_t padding = 0;
  while (padding < 2 && text.ends_with('=')) {
    text.remove_suffix(1);
    ++padding;
  }
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int8_t digit = kBase64[static_cast<uint8_t>(c)];
    if (digit < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count & 0xff));
  }
  return bytes;
}

struct Line {
  std::string bytes;
  int64_t rank = 0;
};

std::optional<Line> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  std::optional<std::string> bytes = decode_base64(line.substr(0, space));
  const std::string_view digits = line.substr(space + 1);
  Line result;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), result.rank);
  if (!bytes.has_value() || parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size())
    return std::nullopt;
  result.bytes = std::move(*bytes);
  return result;
}

std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

TiktokenRanks parse_tiktoken_model(std::string_view text, const std::string& name) {
  TiktokenRanks ranks;
  std::unordered_map<std::string, int64_t> seen;  // token to line
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty()) continue;
    std::optional<Line> parsed = parse_line(line);
    if (!parsed.has_value())
      throw FormatError(name, fmt::format("line {} is no \"<base64> <rank>\"", number));
    if (parsed->rank != static_cast<int64_t>(ranks.size()))
      throw FormatError(name, fmt::format("line {} has rank {}, expected {}", number, parsed->rank,
                                          ranks.size()));
    const auto [first, inserted] = seen.emplace(parsed->bytes, number);
    if (!inserted)
      throw FormatError(name,
                        fmt::format("line {} repeats the token of line {}", number, first->second));
    ranks.push_back(std::move(parsed->bytes));
  }
  if (ranks.empty()) throw FormatError(name, "has no tokens");
  return ranks;
}

TiktokenRanks read_tiktoken_model(const std::filesystem::path& path) {
  return parse_tiktoken_model(read_file(path), path.string());
}

bool is_tiktoken_model(std::string_view text) {
  std::string_view rest = text.substr(0, 4096);
  return parse_line(take_line(rest)).has_value();
}

}  // namespace nanoflow
