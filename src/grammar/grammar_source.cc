#include "grammar/grammar_source.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/json.h"

namespace nanoflow {
namespace {

/// Deepest nesting of any brackets. Strings are not told apart: more brackets than the limit are
/// refused wherever they stand.
int64_t nesting_of(std::string_view text) {
  int64_t depth = 0;
  int64_t deepest = 0;
  for (const char c : text) {
    if (c == '(' || c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if ((c == ')' || c == ']' || c == '}') && depth > 0) --depth;
  }
  return deepest;
}

/// The largest number in any {n}, {n,} or {n,m}; `limit` + 1 when it is beyond it.
int64_t largest_repeat(std::string_view text, int64_t limit) {
  int64_t largest = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '{') continue;
    int64_t number = 0;
    for (++i; i < text.size() &&
              (text[i] == ',' || text[i] == ' ' || (text[i] >= '0' && text[i] <= '9'));
         ++i) {
      number = text[i] < '0' ? 0 : std::min(limit + 1, number * 10 + (text[i] - '0'));
      largest = std::max(largest, number);
    }
    --i;
  }
  return largest;
}

template <size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Keywords that XGrammar passes over without a word, and an output would then break.
constexpr std::array<std::string_view, 10> kUnenforced = {
    "not",      "if",          "then",        "else",        "dependentRequired",
    "contains", "minContains", "maxContains", "uniqueItems", "dependentSchemas"};
/// Every one of these multiplies the grammar.
constexpr std::array<std::string_view, 6> kCounts = {"minItems",  "maxItems",      "minLength",
                                                     "maxLength", "minProperties", "maxProperties"};
/// Their members' names are the request's own; their members are schemas.
constexpr std::array<std::string_view, 4> kNamedSchemas = {"properties", "patternProperties",
                                                           "$defs", "definitions"};
/// What they hold is data.
constexpr std::array<std::string_view, 4> kData = {"enum", "const", "default", "examples"};

/// XGrammar reads one of these alone and passes over the keywords beside it.
constexpr std::array<std::string_view, 6> kAlone = {"$ref",  "const", "enum",
                                                    "anyOf", "oneOf", "allOf"};
/// Without "type", XGrammar takes the first group for objects and the second for lists, and passes
/// over the keywords of the other groups.
constexpr std::array<std::string_view, 3> kMakeObject = {"properties", "additionalProperties",
                                                         "unevaluatedProperties"};
constexpr std::array<std::string_view, 3> kMakeArray = {"items", "prefixItems", "unevaluatedItems"};
constexpr std::array<std::string_view, 5> kOfObjects = {
    "required", "minProperties", "maxProperties", "patternProperties", "propertyNames"};
constexpr std::array<std::string_view, 2> kOfArrays = {"minItems", "maxItems"};
constexpr std::array<std::string_view, 8> kOfScalars = {
    "pattern", "minLength",        "maxLength",        "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};

template <size_t N>
bool has_any(const Json& schema, const std::array<std::string_view, N>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](std::string_view name) { return schema.find(name) != nullptr; });
}

bool has_type(const Json& schema) {
  const Json* type = schema.find("type");
  return type != nullptr && !(type->is_array() && type->as_array().empty());
}

/// The first keyword of an object that XGrammar would pass over because of the others, and what is
/// wrong with it; "" when there is none.
std::string passed_over(const Json& schema) {
  std::string_view alone;
  for (const std::string_view name : kAlone) {
    if (!alone.empty() && schema.find(name) != nullptr)
      return fmt::format("\"{}\" beside \"{}\" is not supported", name, alone);
    if (alone.empty() && schema.find(name) != nullptr) alone = name;
  }
  const bool typed = has_type(schema);
  const bool object = has_any(schema, kMakeObject);
  const bool array = has_any(schema, kMakeArray);
  for (const auto& [key, value] : schema.as_object()) {
    const bool of_object = contains(kOfObjects, key);
    const bool of_array = contains(kOfArrays, key);
    const bool of_scalar = contains(kOfScalars, key);
    const bool makes = contains(kMakeObject, key) || contains(kMakeArray, key);
    if (!alone.empty() && (of_object || of_array || of_scalar || makes))
      return fmt::format("\"{}\" beside \"{}\" is not supported", key, alone);
    const bool enforced =
        typed || (of_object && object) || (of_array && array) || (of_scalar && (object || array));
    if ((of_object || of_array || of_scalar) && alone.empty() && !enforced)
      return fmt::format("\"{}\" is supported only with \"type\" beside it", key);
  }
  return {};
}

/// `of_names`: what an object's member names must be, which are strings without saying so.
Result<void> check_schema(const Json& schema, const GrammarSource& source,
                          const GrammarLimits& limits, bool of_names = false);

/// One member of a schema.
Result<void> check_keyword(const std::string& key, const Json& value, const GrammarSource& source,
                           const GrammarLimits& limits) {
  const bool asks = !value.is_bool() || value.as_bool();
  if (asks && contains(kUnenforced, key))
    return fail(ErrorCode::kUnsupported, fmt::format("the keyword \"{}\" is not supported", key),
                source.param);
  const bool counts = contains(kCounts, key) && value.is_number() &&
                      value.as_double() > static_cast<double>(limits.max_repeat);
  const bool repeats = key == "pattern" && value.is_string() &&
                       largest_repeat(value.as_string(), limits.max_repeat) > limits.max_repeat;
  if (counts || repeats)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} asks for more than {}", key, limits.max_repeat), source.param);
  if (contains(kData, key)) return {};
  if (!contains(kNamedSchemas, key) || !value.is_object())
    return check_schema(value, source, limits, key == "propertyNames");
  for (const auto& [name, member] : value.as_object())
    if (auto checked = check_schema(member, source, limits); !checked) return checked;
  return {};
}

/// A schema, a list of them, or anything that may hold one. Nesting was checked before.
Result<void> check_schema(const Json& schema, const GrammarSource& source,
                          const GrammarLimits& limits, bool of_names) {
  if (schema.is_array()) {
    for (const Json& item : schema.as_array())
      if (auto checked = check_schema(item, source, limits); !checked) return checked;
  }
  if (!schema.is_object()) return {};
  if (std::string unsupported = passed_over(schema); !of_names && !unsupported.empty())
    return fail(ErrorCode::kUnsupported, std::move(unsupported), source.param);
  for (const auto& [key, value] : schema.as_object())
    if (auto checked = check_keyword(key, value, source, limits); !checked) return checked;
  return {};
}

}  // namespace

std::string choice_grammar(const std::vector<std::string>& choices) {
  std::string text = "root ::= ";
  for (size_t i = 0; i < choices.size(); ++i) {
    text += i == 0 ? "\"" : " | \"";
    for (const char c : choices[i]) {
      if (c == '"' || c == '\\') {
        text += {'\\', c};
      } else if (static_cast<unsigned char>(c) < 0x20) {
        text += fmt::format("\\u{:04x}", c);
      } else {
        text += c;
      }
    }
    text += '"';
  }
  return text;
}

Result<void> check_grammar_source(const GrammarSource& source, const GrammarLimits& limits) {
  const auto refuse = [&](std::string message) {
    return fail(ErrorCode::kInvalidArgument, std::move(message), source.param);
  };
  if (source.kind == GrammarKind::kJsonObject) return {};
  if (source.text.empty()) return refuse("must not be empty");
  if (source.text.size() > limits.max_bytes)
    return refuse(fmt::format("has {} bytes; at most {} are supported", source.text.size(),
                              limits.max_bytes));
  if (source.text.find('\0') != std::string::npos) return refuse("must not contain a NUL byte");
  if (source.kind == GrammarKind::kChoice) return {};
  if (nesting_of(source.text) > limits.max_nesting)
    return refuse(fmt::format("nests brackets more than {} deep", limits.max_nesting));
  if (source.kind == GrammarKind::kRegex || source.kind == GrammarKind::kEbnf) {
    if (largest_repeat(source.text, limits.max_repeat) > limits.max_repeat)
      return refuse(fmt::format("repeats more than {} times", limits.max_repeat));
    return {};
  }
  const Result<Json> json = parse_json(source.text);
  if (!json) return refuse("is not JSON: " + json.error().message);
  if (!json->is_object() && !(json->is_bool() && source.kind == GrammarKind::kJsonSchema))
    return refuse(fmt::format("must be a JSON object, not {}", json->type_name()));
  return check_schema(*json, source, limits);
}

}  // namespace nanoflow
