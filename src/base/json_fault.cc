#include "base/json_fault.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/json.h"

namespace nanoflow {
namespace {

constexpr size_t kMaxDepth = 1024;  // parse_json's
constexpr size_t kMaxShown = 60;    // bytes of a key or value in a message
constexpr size_t kMaxPath = 200;

/// The beginning of `text`, cut between characters, on one line.
std::string shown(std::string_view text) {
  size_t end = std::min(text.size(), kMaxShown);
  while (end < text.size() && end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80)
    --end;
  std::string part(text.substr(0, end));
  for (char& c : part)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return end < text.size() ? part + "..." : part;
}

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Walks a document token by token and stops at the first fault.
class Walker {
 public:
  explicit Walker(std::string_view text) : text_(text) {}

  /// What is wrong; "" for a valid document.
  std::string walk() {
    const bool whole = value();
    skip_space();
    if (whole && at_ < text_.size()) fault("there is more text behind the document");
    return fault_;
  }

 private:
  bool value() {
    skip_space();
    if (at_ == text_.size()) return fault("the text ends where a value should be");
    const char c = text_[at_];
    if (c == '{' || c == '[') {
      if (++depth_ > kMaxDepth) return fault(fmt::format("is nested more than {} deep", kMaxDepth));
      const bool good = c == '{' ? object() : array();
      --depth_;
      return good;
    }
    return c == '"' ? string() : scalar();
  }

  bool object() {
    ++at_;
    if (take('}')) return true;
    do {
      skip_space();
      if (at_ == text_.size() || text_[at_] != '"')
        return fault("a member's name in quotes is missing");
      const size_t begin = at_ + 1;
      if (!string()) return false;
      path_.push_back({text_.substr(begin, at_ - 1 - begin), 0});
      if (!take(':')) return fault("\":\" is missing behind the member's name");
      if (!value()) return false;
      path_.pop_back();
    } while (take(','));
    return take('}') || fault("\",\" or \"}\" is missing");
  }

  bool array() {
    ++at_;
    if (take(']')) return true;
    path_.emplace_back();
    do {
      if (!value()) return false;
      ++path_.back().index;
    } while (take(','));
    path_.pop_back();
    return take(']') || fault("\",\" or \"]\" is missing");
  }

  bool string() {
    for (++at_; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '"') {
        ++at_;
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20)
        return fault("a string has a line end or another control character, unescaped");
      if (c == '\\' && !escape()) return false;
    }
    return fault("a string has no end");
  }

  /// At the backslash; ends at the escape's last character.
  bool escape() {
    const size_t begin = at_++;
    if (at_ < text_.size() && text_[at_] == 'u') {
      const int unit = code_unit();
      if (unit >= 0 && (unit < 0xD800 || unit > 0xDFFF)) return true;
      if (unit >= 0xD800 && unit <= 0xDBFF && text_.substr(at_ + 1, 2) == "\\u") {
        at_ += 2;
        const int low = code_unit();
        if (low >= 0xDC00 && low <= 0xDFFF) return true;
      }
      if (unit < 0) return fault("a string has a \\u without four hexadecimal digits");
      return fault(
          fmt::format("{} is half of a surrogate pair, no character", text_.substr(begin, 6)));
    }
    if (at_ < text_.size() && std::string_view("\"\\/bfnrt").find(text_[at_]) != std::string::npos)
      return true;
    return fault("a string has a backslash that escapes nothing");
  }

  /// Of four hexadecimal digits behind the 'u'; -1 if they are not. Ends at the last one.
  int code_unit() {
    int unit = -1;
    const std::string_view digits = text_.substr(at_ + 1, 4);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), unit, 16);
    if (digits.size() < 4 || parsed.ptr != digits.data() + 4 || unit < 0) return -1;
    at_ += 4;
    return unit;
  }

  /// A number, true, false, null, or a word that is none of them.
  bool scalar() {
    const size_t begin = at_;
    while (at_ < text_.size() && !is_space(text_[at_]) &&
           std::string_view(",:]}[{\"").find(text_[at_]) == std::string::npos)
      ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word == "true" || word == "false" || word == "null") return true;
    if (word.empty()) return fault("a value is missing");
    const std::string_view size = word.front() == '-' ? word.substr(1) : word;
    if (size == "NaN" || size == "Infinity" || size == "inf" || size == "nan")
      return fault(fmt::format("{} is no JSON number", word));
    if (!is_number(size)) return fault(fmt::format("{} is no JSON value", shown(word)));
    return is_in_range(word) || fault(fmt::format("{} is out of range", shown(word)));
  }

  /// RFC 8259, section 6, without the sign.
  static bool is_number(std::string_view text) {
    size_t at = 0;
    const auto digits = [&] {
      const size_t begin = at;
      while (at < text.size() && is_digit(text[at])) ++at;
      return at > begin;
    };
    if (!digits() || (text.front() == '0' && at > 1)) return false;
    if (at < text.size() && text[at] == '.' && (++at, !digits())) return false;
    if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
      if (++at < text.size() && (text[at] == '+' || text[at] == '-')) ++at;
      if (!digits()) return false;
    }
    return at == text.size();
  }

  static bool is_in_range(std::string_view word) {
    if (word.find_first_of(".eE") != std::string::npos)
      return std::isfinite(std::strtod(std::string(word).c_str(), nullptr));
    const char* end = word.data() + word.size();
    int64_t integer = 0;
    uint64_t natural = 0;
    return std::from_chars(word.data(), end, integer).ec == std::errc() ||
           std::from_chars(word.data(), end, natural).ec == std::errc();
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool fault(const std::string& what) {
    std::string place;
    for (const Step& step : path_) {
      if (place.size() > kMaxPath) break;
      if (step.key.data() == nullptr) {
        place += fmt::format("[{}]", step.index);
      } else {
        place += fmt::format("{}{}", place.empty() ? "" : ".", shown(step.key));
      }
    }
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<long>(at_), '\n');
    fault_ = fmt::format("{}{}{} (line {})", place, place.empty() ? "" : ": ", what, line);
    return false;
  }

  struct Step {
    std::string_view key;  ///< without data: an array's
    int64_t index = 0;
  };

  std::string_view text_;
  size_t at_ = 0;
  size_t depth_ = 0;
  std::vector<Step> path_;
  std::string fault_;
};

/// Behind the string that begins at `at`, whatever is in it; npos when it has no end.
size_t skip_string(std::string_view text, size_t at) {
  for (++at; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == '"') {
      return at + 1;
    }
  }
  return std::string_view::npos;
}

}  // namespace

std::optional<std::string> find_json_fault(std::string_view text) {
  if (!simdjson::validate_utf8(text.data(), text.size())) return std::nullopt;
  std::string fault = Walker(text).walk();
  if (fault.empty()) return std::nullopt;
  return fault;
}

std::optional<std::string> salvage_json_member(std::string_view text, std::string_view key) {
  int64_t depth = 0;
  bool is_name = false;  // the next string of the outermost object is a member's name
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"') {
      const size_t end = skip_string(text, at);
      if (end == std::string_view::npos) return std::nullopt;
      const std::string_view quoted = text.substr(at, end - at);
      at = end;
      if (depth != 1 || !is_name) continue;
      is_name = false;
      if (quoted.substr(1, quoted.size() - 2) != key) continue;
      while (at < text.size() && (is_space(text[at]) || text[at] == ':')) ++at;
      size_t value_end = at;
      if (at < text.size() && text[at] == '"') {
        value_end = skip_string(text, at);
        if (value_end == std::string_view::npos) return std::nullopt;
      } else {
        while (value_end < text.size() && (is_digit(text[value_end]) || text[value_end] == '-'))
          ++value_end;
      }
      const Result<Json> value = parse_json(text.substr(at, value_end - at));
      if (!value.has_value()) return std::nullopt;
      if (value->is_string()) return value->as_string();
      if (value->is_int()) return fmt::format("{}", value->as_int());
      return std::nullopt;
    }
    if (c == '{' || c == '[') {
      is_name = ++depth == 1 && c == '{';
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',') {
      is_name = depth == 1;
    }
    ++at;
  }
  return std::nullopt;
}

}  // namespace nanoflow
