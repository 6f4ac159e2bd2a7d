// FieldReader: typed, checked access to the fields of a request body. The first error is kept and
// names its field, so parsing code reads as a list of fields.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace nanoflow {

/// Reads members of one JSON object. A member that is absent or null leaves the default.
class FieldReader {
 public:
  /// `object` must be a JSON object and outlive the reader. `prefix` is prepended to field names.
  explicit FieldReader(const Json& object, std::string prefix = {});

  /// The member, or nullptr when absent or null. `key` must be a literal.
  [[nodiscard]] const Json* find(std::string_view key);

  void read(std::string_view key, bool& out);
  /// Integers in [min, max]; 3.0 counts as 3.
  void read(std::string_view key, int64_t& out, int64_t min, int64_t max);
  void read(std::string_view key, int32_t& out, int32_t min, int32_t max);
  /// Finite numbers in [min, max].
  void read(std::string_view key, double& out, double min, double max);
  void read(std::string_view key, float& out, double min, double max);
  void read(std::string_view key, std::string& out);
  /// A list of integers in [min, max].
  void read(std::string_view key, std::vector<int32_t>& out, int32_t min, int32_t max);
  /// A string, or a list of strings.
  void read_strings(std::string_view key, std::vector<std::string>& out);

  /// Names of literals that are known though nobody reads them.
  void allow(std::initializer_list<std::string_view> keys) { asked_.insert(keys); }
  /// Members that are not null and that nobody has asked for: typing errors, for example.
  [[nodiscard]] std::vector<std::string> unknown() const;

  /// All names that were asked for or allowed so far.
  [[nodiscard]] const std::set<std::string_view>& known() const { return asked_; }

  /// Keeps the first error only.
  void fail(std::string_view key, std::string message,
            ErrorCode code = ErrorCode::kInvalidArgument);
  /// The same for an error that names its field already.
  void adopt(Error error);
  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  void wrong_type(std::string_view key, std::string_view expected, const Json& value);

  const Json& object_;
  std::string prefix_;
  std::set<std::string_view> asked_;
  std::optional<Error> error_;
};

/// An integer value of `value`, also when it is written as a whole double; nullopt otherwise.
std::optional<int64_t> whole_number(const Json& value);

}  // namespace nanoflow
