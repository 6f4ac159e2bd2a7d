#include "base/json.h"

#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <simdjson.h>

#include "base/check.h"
#include "base/json_fault.h"

namespace nanoflow {

Json::Json(uint64_t v) {
  if (v <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    value_ = static_cast<int64_t>(v);
  } else {
    value_ = static_cast<double>(v);
  }
}

bool Json::as_bool() const {
  NANO_CHECK(is_bool(), "JSON value is {}", type_name());
  return std::get<bool>(value_);
}
int64_t Json::as_int() const {
  NANO_CHECK(is_int(), "JSON value is {}", type_name());
  return std::get<int64_t>(value_);
}
double Json::as_double() const {
  NANO_CHECK(is_number(), "JSON value is {}", type_name());
  return is_int() ? static_cast<double>(std::get<int64_t>(value_)) : std::get<double>(value_);
}
const std::string& Json::as_string() const {
  NANO_CHECK(is_string(), "JSON value is {}", type_name());
  return std::get<std::string>(value_);
}
const Json::Array& Json::as_array() const {
  NANO_CHECK(is_array(), "JSON value is {}", type_name());
  return std::get<Array>(value_);
}
Json::Array& Json::as_array() {
  NANO_CHECK(is_array(), "JSON value is {}", type_name());
  return std::get<Array>(value_);
}
const Json::Object& Json::as_object() const {
  NANO_CHECK(is_object(), "JSON value is {}", type_name());
  return std::get<Object>(value_);
}
Json::Object& Json::as_object() {
  NANO_CHECK(is_object(), "JSON value is {}", type_name());
  return std::get<Object>(value_);
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  const Object& members = std::get<Object>(value_);
  for (auto it = members.rbegin(); it != members.rend(); ++it) {
    if (it->first == key) return &it->second;
  }
  return nullptr;
}

void Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = Object{};
  for (Member& member : as_object()) {
    if (member.first == key) {
      member.second = std::move(value);
      return;
    }
  }
  as_object().emplace_back(std::string(key), std::move(value));
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array{};
  as_array().push_back(std::move(value));
}

std::string_view Json::type_name() const {
  if (is_null()) return "null";
  if (is_bool()) return "boolean";
  if (is_int()) return "integer";
  if (is_double()) return "number";
  if (is_string()) return "string";
  return is_array() ? "array" : "object";
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

namespace {

struct Style {
  int indent;
  std::string_view comma;
  std::string_view colon;
};

void new_line(std::string& out, const Style& style, int depth) {
  if (style.indent < 0) return;
  out += '\n';
  out.append(static_cast<size_t>(style.indent) * static_cast<size_t>(depth), ' ');
}

// The shortest digits that read back as the same double; a whole number keeps ".0", as in Python.
void append_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  const std::string digits = fmt::format("{}", value);
  out += digits;
  if (digits.find_first_of(".e") == std::string::npos) out += ".0";
}

void append(std::string& out, const Json& value, const Style& style, int depth) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_int()) {
    out += fmt::format("{}", value.as_int());
  } else if (value.is_double()) {
    append_double(out, value.as_double());
  } else if (value.is_string()) {
    append_json_string(out, value.as_string());
  } else if (value.is_array()) {
    out += '[';
    bool first = true;
    for (const Json& item : value.as_array()) {
      if (!first) out += style.comma;
      first = false;
      new_line(out, style, depth + 1);
      append(out, item, style, depth + 1);
    }
    if (!first) new_line(out, style, depth);
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.as_object()) {
      if (!first) out += style.comma;
      first = false;
      new_line(out, style, depth + 1);
      append_json_string(out, key);
      out += style.colon;
      append(out, item, style, depth + 1);
    }
    if (!first) new_line(out, style, depth);
    out += '}';
  }
}

Json convert(const simdjson::dom::element& element) {
  using Type = simdjson::dom::element_type;
  switch (element.type()) {
    case Type::ARRAY: {
      Json::Array items;
      for (const simdjson::dom::element item : simdjson::dom::array(element))
        items.push_back(convert(item));
      return Json(std::move(items));
    }
    case Type::OBJECT: {
      Json::Object members;
      for (const auto field : simdjson::dom::object(element))
        members.emplace_back(std::string(field.key), convert(field.value));
      return Json(std::move(members));
    }
    case Type::INT64: return Json(int64_t(element));
    case Type::UINT64: return Json(uint64_t(element));
    case Type::DOUBLE: return Json(double(element));
    case Type::STRING: return Json(std::string_view(element));
    case Type::BOOL: return Json(bool(element));
    case Type::NULL_VALUE: break;
    default: break;  // later simdjson versions have more types; none that RFC 8259 can produce
  }
  return Json(nullptr);
}

}  // namespace

std::string Json::dump(int indent, bool python_style) const {
  const bool spaced = python_style && indent < 0;
  const Style style{indent, spaced ? ", " : ",", spaced || indent >= 0 ? ": " : ":"};
  std::string out;
  append(out, *this, style, 0);
  return out;
}

Result<Json> parse_json(std::string_view text) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  const auto error = parser.parse(text.data(), text.size()).get(root);
  if (error) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("invalid JSON: {}",
                            find_json_fault(text).value_or(simdjson::error_message(error))));
  }
  return convert(root);
}

}  // namespace nanoflow
