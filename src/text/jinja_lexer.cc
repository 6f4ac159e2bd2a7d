#include "text/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include <fmt/format.h>

#include "text/jinja_string.h"
#include "text/jinja_value.h"

namespace nanoflow::jinja {

namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_name_byte(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         (static_cast<unsigned char>(c) & 0x80) != 0;
}

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source)
      : normalized_(normalize_newlines(source)), source_(normalized_) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) lex_data();
    push(Token::kEnd, {});
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw TemplateError(TemplateError::kSyntax, message, line_);
  }

  [[nodiscard]] bool looking_at(std::string_view text) const {
    return source_.substr(at_).starts_with(text);
  }

  void advance(size_t bytes) {
    const std::string_view passed = source_.substr(at_, bytes);
    line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
    at_ += passed.size();
    if (!passed.empty()) line_starting_ = passed.back() == '\n';
  }

  [[nodiscard]] size_t space_bytes(size_t from) const {
    size_t at = from;
    while (at < source_.size()) {
      size_t next = at;
      if (!is_space(next_char(source_, next))) break;
      at = next;
    }
    return at - from;
  }

  void push(Token::Type type, std::string text) {
    Token token;
    token.type = type;
    token.line = line_;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  // Text before a tag whose mark is `sign`; `block` is false for {{, which keeps its indentation.
  void push_data(std::string_view text, char sign, bool block) {
    if (sign == '-') {
      text = strip(text, nullptr, false, true);
    } else if (sign != '+' && block) {
      const size_t line_start = text.rfind('\n') + 1;  // npos + 1 == 0
      if (line_start > 0 || line_starting_) {
        const std::string_view tail = text.substr(line_start);
        if (strip(tail, nullptr, true, false).empty()) text = text.substr(0, line_start);
      }
    }
    if (!text.empty()) push(Token::kData, std::string(text));
  }

  [[nodiscard]] size_t find_tag() const {
    for (size_t at = source_.find('{', at_); at != std::string_view::npos;
         at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() &&
          std::string_view("%{#").find(source_[at + 1]) != std::string_view::npos) {
        return at;
      }
    }
    return source_.size();
  }

  [[nodiscard]] char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  // Bytes of "{%- raw -%}" at `at`, whitespace stripped by the closing minus included; 0 when it is
  // no such tag. With trim, a newline behind "%}" belongs to the tag.
  [[nodiscard]] size_t raw_tag_bytes(size_t at, std::string_view name, bool trim) const {
    size_t end = at + 2;
    if (sign_at(end) != '\0') ++end;
    end += space_bytes(end);
    if (!source_.substr(end).starts_with(name)) return 0;
    end += name.size();
    end += space_bytes(end);
    const std::string_view rest = source_.substr(end);
    if (rest.starts_with("-%}")) return end + 3 + space_bytes(end + 3) - at;
    if (trim && rest.starts_with("+%}")) return end + 3 - at;
    if (!rest.starts_with("%}")) return 0;
    return end + 2 + (trim && rest.substr(2).starts_with("\n") ? 1 : 0) - at;
  }

  void lex_data() {
    const size_t tag = find_tag();
    const std::string_view text = source_.substr(at_, tag - at_);
    if (tag == source_.size()) {
      push(Token::kData, std::string(text));
      advance(text.size());
      return;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    push_data(text, sign, kind != '{');
    const size_t raw = kind == '%' ? raw_tag_bytes(tag, "raw", false) : 0;
    advance(text.size());
    if (raw > 0) {
      advance(raw);
      return lex_raw();
    }
    advance(sign != '\0' ? 3 : 2);
    if (kind == '#') return lex_comment();
    push(kind == '%' ? Token::kBlockBegin : Token::kOutputBegin, {});
    lex_tag(kind == '%');
  }

  void lex_raw() {
    for (size_t tag = source_.find("{%", at_); tag != std::string_view::npos;
         tag = source_.find("{%", tag + 1)) {
      const size_t bytes = raw_tag_bytes(tag, "endraw", true);
      if (bytes == 0) continue;
      push_data(source_.substr(at_, tag - at_), sign_at(tag + 2), true);
      advance(tag - at_ + bytes);
      return;
    }
    fail("missing end of raw directive");
  }

  void lex_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string_view::npos) fail("missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2 - at_);
    close_tag(sign, true);
  }

  // Whitespace behind a closing tag: all of it after '-', one newline when blocks are trimmed.
  void close_tag(char sign, bool trim) {
    if (sign == '-') {
      advance(space_bytes(at_));
    } else if (trim && sign != '+' && looking_at("\n")) {
      advance(1);
    }
  }

  bool lex_end(bool block) {
    const std::string_view closing = block ? "%}" : "}}";
    char sign = '\0';
    if (looking_at("-") || (block && looking_at("+"))) sign = source_[at_];
    if (!source_.substr(at_ + (sign != '\0' ? 1 : 0)).starts_with(closing)) return false;
    push(block ? Token::kBlockEnd : Token::kOutputEnd, {});
    advance(closing.size() + (sign != '\0' ? 1 : 0));
    close_tag(sign, block);
    return true;
  }

  void lex_tag(bool block) {
    std::string open;  // brackets that are still to be closed
    while (at_ < source_.size()) {
      if (open.empty() && lex_end(block)) return;
      const size_t spaces = space_bytes(at_);
      if (spaces > 0) {
        advance(spaces);
      } else if (is_digit(source_[at_])) {
        lex_number();
      } else if (is_name_byte(source_[at_])) {
        lex_name();
      } else if (source_[at_] == '\'' || source_[at_] == '"') {
        lex_string(source_[at_]);
      } else {
        lex_operator(open);
      }
    }
    fail(block ? "unexpected end of template, a '%}' is missing"
               : "unexpected end of template, a '}}' is missing");
  }

  void lex_name() {
    size_t end = at_;
    while (end < source_.size() && is_name_byte(source_[end])) {
      size_t next = end;
      if (is_space(next_char(source_, next))) break;
      end = next;
    }
    push(Token::kName, std::string(source_.substr(at_, end - at_)));
    advance(end - at_);
  }

  [[nodiscard]] size_t digits_end(size_t at) const {
    while (at < source_.size() &&
           (is_digit(source_[at]) ||
            (source_[at] == '_' && at + 1 < source_.size() && is_digit(source_[at + 1])))) {
      ++at;
    }
    return at;
  }

  void lex_number() {
    if (source_[at_] == '0' && at_ + 1 < source_.size() && is_name_byte(source_[at_ + 1]) &&
        !is_digit(source_[at_ + 1]) && (source_[at_ + 1] | 0x20) != 'e') {
      return lex_prefixed();
    }
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    size_t end = digits_end(at_);
    bool real = false;
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
        end = digits_end(end + 1);
        real = true;
      }
      size_t exponent = end + 1;
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
          ++exponent;
        }
        if (exponent < source_.size() && is_digit(source_[exponent])) {
          end = digits_end(exponent);
          real = true;
        }
      }
    }
    std::string digits(source_.substr(at_, end - at_));
    std::erase(digits, '_');
    push(real ? Token::kFloat : Token::kInteger, {});
    if (real) {
      tokens_.back().real = std::strtod(digits.c_str(), nullptr);
    } else {
      set_integer(digits, 10);
    }
    advance(end - at_);
  }

  void lex_prefixed() {
    const char letter = static_cast<char>(source_[at_ + 1] | 0x20);
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    size_t end = at_ + 2;
    while (end < source_.size() && is_name_byte(source_[end])) ++end;
    std::string digits(source_.substr(at_ + 2, end - at_ - 2));
    std::erase(digits, '_');
    if (base == 0 || digits.empty()) fail("malformed number");
    push(Token::kInteger, {});
    set_integer(digits, base);
    advance(end - at_);
  }

  void set_integer(const std::string& digits, int base) {
    if (base == 10 && digits.size() > 1 && digits[0] == '0' &&
        digits.find_first_not_of('0') != std::string::npos) {
      fail("malformed number: leading zeros");
    }
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), tokens_.back().integer, base);
    if (error == std::errc::result_out_of_range) fail("integer does not fit in 64 bits");
    if (error != std::errc() || end != digits.data() + digits.size()) fail("malformed number");
  }

  void lex_string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("unterminated string");
    const std::string_view body = source_.substr(at_ + 1, end - at_ - 1);
    push(Token::kString, unescape(body));
    advance(end + 1 - at_);
  }

  // The code point of `digits` hexadecimal digits at body[i], which are skipped.
  void append_hex(std::string& out, std::string_view body, size_t& i, size_t digits) const {
    uint32_t c = 0;
    const std::string_view hex = body.substr(std::min(i, body.size()), digits);
    const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), c, 16);
    if (hex.size() != digits || error != std::errc() || end != hex.data() + digits) {
      fail("malformed escape in a string");
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
      fail("a string escape is no Unicode character");
    append_utf8(out, c);
    i += digits;
  }

  [[nodiscard]] std::string unescape(std::string_view body) const {
    std::string out;
    for (size_t i = 0; i < body.size();) {
      if (body[i] != '\\') {
        out += body[i++];
        continue;
      }
      const char c = body[i + 1];  // the scanner skipped escapes in pairs, so there is one
      i += 2;
      switch (c) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out += c; break;
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case 'a': out += '\a'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'v': out += '\v'; break;
        case 'x': append_hex(out, body, i, 2); break;
        case 'u': append_hex(out, body, i, 4); break;
        case 'U': append_hex(out, body, i, 8); break;
        case 'N': fail("\\N{...} in a string is not supported");
        default:
          if (c >= '0' && c <= '7') {
            char32_t code = static_cast<char32_t>(c - '0');
            for (int n = 0; n < 2 && i < body.size() && body[i] >= '0' && body[i] <= '7'; ++n) {
              code = code * 8 + static_cast<char32_t>(body[i++] - '0');
            }
            append_utf8(out, code);
          } else {  // Python keeps an escape that it does not know
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  void lex_operator(std::string& open) {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view op : kOperators) {
      if (!looking_at(op)) continue;
      push(Token::kOperator, std::string(op));
      return advance(op.size());
    }
    const char c = source_[at_];
    if (std::string_view("+-*/%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      fail(fmt::format("unexpected character '{}'", c));
    }
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '{') open += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail(fmt::format("unexpected '{}'", c));
      if (open.back() != c) fail(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      open.pop_back();
    }
    push(Token::kOperator, std::string(1, c));
    advance(1);
  }

  const std::string normalized_;
  const std::string_view source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace nanoflow::jinja
