// Arguments of a call, and how filters, tests, methods and functions take them by name.
#pragma once

#include <array>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace nanoflow::jinja {

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

/// Arguments matched to parameter names: bound[i] is null when parameter i was not given.
class Bound {
 public:
  /// Throws Python's complaint when there are too many arguments, an unknown name, a name twice, or
  /// fewer than `required`.
  Bound(std::string_view callee, const Args& args, std::initializer_list<std::string_view> params,
        size_t required = 0);

  [[nodiscard]] bool has(size_t i) const { return values_[i] != nullptr; }
  [[nodiscard]] Value get(size_t i, Value otherwise = Value::none()) const {
    return values_[i] != nullptr ? *values_[i] : otherwise;
  }
  [[nodiscard]] bool flag(size_t i, bool otherwise = false) const {
    return values_[i] != nullptr ? truthy(*values_[i]) : otherwise;
  }
  /// Throws unless the argument is an integer.
  [[nodiscard]] int64_t integer(size_t i, int64_t otherwise) const;
  /// Throws unless the argument is a string.
  [[nodiscard]] std::string_view text(size_t i) const;

 private:
  static constexpr size_t kMax = 6;
  std::string_view callee_;
  std::array<const Value*, kMax> values_{};
};

using FilterFn = Value (*)(Heap&, const Value& input, const Args&);
using TestFn = bool (*)(Heap&, const Value& input, const Args&);

/// The filter or test of that name, or nullptr.
FilterFn find_filter(std::string_view name);
TestFn find_test(std::string_view name);

/// Calls a method of a string, dict or list. `find_method` says which there are.
Value call_method(Heap& heap, const Method& method, const Args& args);

enum class MethodKind : uint8_t { kNone, kSupported, kUnsafe, kUnsupported };
MethodKind find_method(Kind receiver, std::string_view name);

/// json.dumps as transformers calls it: keys in order, no HTML escaping.
Value to_json(Heap& heap, const Value& v, const Args& args);

/// obj[path] for a dotted path such as "function.name" (map(attribute=...), sort(attribute=...)).
Value get_path(Heap& heap, Value object, const Value& path);

}  // namespace nanoflow::jinja
