// Template text to tokens, with the whitespace control that transformers sets: trim_blocks and
// lstrip_blocks on, one trailing newline dropped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow::jinja {

struct Token {
  enum Type : uint8_t {
    kData,        // text between tags
    kBlockBegin,  // {%
    kBlockEnd,
    kOutputBegin,  // {{
    kOutputEnd,
    kName,
    kString,  // escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Type type = kEnd;
  int line = 1;
  std::string text;
  int64_t integer = 0;
  double real = 0;

  [[nodiscard]] bool is(std::string_view op) const { return type == kOperator && text == op; }
  [[nodiscard]] bool is_name(std::string_view name) const { return type == kName && text == name; }
};

/// Tokens of `source` (valid UTF-8), ending in kEnd. Throws TemplateError kSyntax with the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace nanoflow::jinja
