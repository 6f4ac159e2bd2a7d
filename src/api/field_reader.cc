#include "api/field_reader.h"

#include <cmath>

#include <fmt/format.h>

#include "base/check.h"

namespace nanoflow {

std::optional<int64_t> whole_number(const Json& value) {
  if (value.is_int()) return value.as_int();
  if (!value.is_double()) return std::nullopt;
  const double number = value.as_double();
  constexpr double kExact = 9007199254740992.0;  // 2^53: above it a double may have lost digits
  if (std::abs(number) > kExact || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

FieldReader::FieldReader(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  NANO_CHECK(object.is_object(), "a body must be an object");
}

const Json* FieldReader::find(std::string_view key) {
  asked_.insert(key);
  const Json* value = object_.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::vector<std::string> FieldReader::unknown() const {
  std::vector<std::string> names;
  for (const auto& [key, value] : object_.as_object())
    if (!value.is_null() && !asked_.contains(key)) names.push_back(key);
  return names;
}

void FieldReader::fail(std::string_view key, std::string message, ErrorCode code) {
  if (error_.has_value()) return;
  const std::string field = prefix_ + std::string(key);
  error_ = Error{code, fmt::format("{}: {}", field, message), field};
}

void FieldReader::adopt(Error error) {
  if (!error_.has_value()) error_ = std::move(error);
}

void FieldReader::wrong_type(std::string_view key, std::string_view expected, const Json& value) {
  fail(key, fmt::format("must be {}, not {}", expected, value.type_name()));
}

void FieldReader::read(std::string_view key, bool& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_bool()) return wrong_type(key, "a boolean", *value);
  out = value->as_bool();
}

void FieldReader::read(std::string_view key, int64_t& out, int64_t min, int64_t max) {
  const Json* value = find(key);
  if (value == nullptr) return;
  const std::optional<int64_t> number = whole_number(*value);
  if (!number.has_value()) return wrong_type(key, "an integer", *value);
  if (*number < min || *number > max) {
    const bool open = max == std::numeric_limits<int64_t>::max();
    return fail(key, open ? fmt::format("must be at least {}, got {}", min, *number)
                          : fmt::format("must be between {} and {}, got {}", min, max, *number));
  }
  out = *number;
}

void FieldReader::read(std::string_view key, int32_t& out, int32_t min, int32_t max) {
  int64_t wide = out;
  read(key, wide, min, max);
  out = static_cast<int32_t>(wide);
}

void FieldReader::read(std::string_view key, double& out, double min, double max) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_number()) return wrong_type(key, "a number", *value);
  const double number = value->as_double();
  if (!(number >= min && number <= max))
    return fail(key, fmt::format("must be between {} and {}, got {}", min, max, number));
  out = number;
}

void FieldReader::read(std::string_view key, float& out, double min, double max) {
  double wide = out;
  read(key, wide, min, max);
  out = static_cast<float>(wide);
}

void FieldReader::read(std::string_view key, std::string& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_string()) return wrong_type(key, "a string", *value);
  out = value->as_string();
}

void FieldReader::read(std::string_view key, std::vector<int32_t>& out, int32_t min, int32_t max) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (!value->is_array()) return wrong_type(key, "a list of integers", *value);
  std::vector<int32_t> numbers;
  numbers.reserve(value->as_array().size());
  for (const Json& item : value->as_array()) {
    const std::optional<int64_t> number = whole_number(item);
    if (!number.has_value()) return wrong_type(key, "a list of integers", item);
    if (*number < min || *number > max)
      return fail(key, fmt::format("values must be between {} and {}, got {}", min, max, *number));
    numbers.push_back(static_cast<int32_t>(*number));
  }
  out = std::move(numbers);
}

void FieldReader::read_strings(std::string_view key, std::vector<std::string>& out) {
  const Json* value = find(key);
  if (value == nullptr) return;
  if (value->is_string()) {
    out = {value->as_string()};
    return;
  }
  if (!value->is_array()) return wrong_type(key, "a string or a list of strings", *value);
  std::vector<std::string> strings;
  for (const Json& item : value->as_array()) {
    if (!item.is_string()) return wrong_type(key, "a list of strings", item);
    strings.push_back(item.as_string());
  }
  out = std::move(strings);
}

}  // namespace nanoflow
