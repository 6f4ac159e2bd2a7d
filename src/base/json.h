// A small JSON value: parsing (by simdjson), building and printing. Objects keep their order.
// For megabytes in a hot path, use simdjson directly; this is for configuration, requests and
// reports.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace nanoflow {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;  // insertion order; a later duplicate key wins in find()

  Json() : value_(nullptr) {}
  Json(std::nullptr_t) : value_(nullptr) {}         // NOLINT(*-explicit-*)
  Json(bool v) : value_(v) {}                       // NOLINT(*-explicit-*)
  Json(int v) : value_(static_cast<int64_t>(v)) {}  // NOLINT(*-explicit-*)
  Json(int64_t v) : value_(v) {}                    // NOLINT(*-explicit-*)
  Json(uint64_t v);              // NOLINT(*-explicit-*)  above int64's range it becomes a double
  Json(double v) : value_(v) {}  // NOLINT(*-explicit-*)
  Json(const char* v) : value_(std::string(v)) {}       // NOLINT(*-explicit-*)
  Json(std::string_view v) : value_(std::string(v)) {}  // NOLINT(*-explicit-*)
  Json(std::string v) : value_(std::move(v)) {}         // NOLINT(*-explicit-*)
  Json(Array v) : value_(std::move(v)) {}               // NOLINT(*-explicit-*)
  Json(Object v) : value_(std::move(v)) {}              // NOLINT(*-explicit-*)

  static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }
  static Json array(std::initializer_list<Json> items = {}) { return Json(Array(items)); }

  [[nodiscard]] bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  [[nodiscard]] bool is_bool() const { return std::holds_alternative<bool>(value_); }
  [[nodiscard]] bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  [[nodiscard]] bool is_double() const { return std::holds_alternative<double>(value_); }
  [[nodiscard]] bool is_number() const { return is_int() || is_double(); }
  [[nodiscard]] bool is_string() const { return std::holds_alternative<std::string>(value_); }
  [[nodiscard]] bool is_array() const { return std::holds_alternative<Array>(value_); }
  [[nodiscard]] bool is_object() const { return std::holds_alternative<Object>(value_); }

  // Accessors require the matching is_...() (NANO_CHECKed); as_double also accepts an integer.
  [[nodiscard]] bool as_bool() const;
  [[nodiscard]] int64_t as_int() const;
  [[nodiscard]] double as_double() const;
  [[nodiscard]] const std::string& as_string() const;
  [[nodiscard]] const Array& as_array() const;
  [[nodiscard]] Array& as_array();
  [[nodiscard]] const Object& as_object() const;
  [[nodiscard]] Object& as_object();

  /// The member named `key`, or nullptr when this is no object or has none. The last duplicate
  /// wins.
  [[nodiscard]] const Json* find(std::string_view key) const;
  /// Sets or replaces a member of an object (a null value becomes an object first).
  void set(std::string_view key, Json value);
  /// Appends to an array (a null value becomes an array first).
  void push_back(Json value);

  /// "null", "boolean", "integer", "number", "string", "array" or "object": for error messages.
  [[nodiscard]] std::string_view type_name() const;

  /// indent < 0: compact, with ", " and ": " separators as Python's json.dumps writes them when
  /// `python_style`, else without spaces; indent >= 0: pretty-printed. Non-finite doubles print
  /// null.
  [[nodiscard]] std::string dump(int indent = -1, bool python_style = false) const;

  bool operator==(const Json& other) const = default;

 private:
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value_;
};

/// Parses one JSON document (RFC 8259; UTF-8 is validated; depth limited to 1024).
/// The error message says where the fault is and what (json_fault.h).
Result<Json> parse_json(std::string_view text);

/// Appends `text` as a JSON string literal with quotes. Non-ASCII is kept; control characters
/// escaped.
void append_json_string(std::string& out, std::string_view text);

}  // namespace nanoflow
