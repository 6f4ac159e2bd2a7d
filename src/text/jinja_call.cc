#include "text/jinja_call.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "text/jinja_ops.h"

namespace nanoflow::jinja {

Bound::Bound(std::string_view callee, const Args& args,
             std::initializer_list<std::string_view> params, size_t required)
    : callee_(callee) {
  NANO_CHECK(params.size() <= kMax);
  if (args.positional.size() > params.size()) {
    raise(fmt::format("{}() takes at most {} argument(s) ({} given)", callee, params.size(),
                      args.positional.size()));
  }
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto* at = std::find(params.begin(), params.end(), name);
    if (at == params.end()) {
      raise(fmt::format("{}() got an unexpected keyword argument '{}'", callee, name));
    }
    const Value*& slot = values_[static_cast<size_t>(at - params.begin())];
    if (slot != nullptr) {
      raise(fmt::format("{}() got multiple values for argument '{}'", callee, name));
    }
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      raise(fmt::format("{}() missing argument '{}'", callee, params.begin()[i]));
    }
  }
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!has(i)) return otherwise;
  require_defined(*values_[i]);
  if (!values_[i]->is_integral()) {
    raise(fmt::format("{}(): '{}' object cannot be interpreted as an integer", callee_,
                      type_name(*values_[i])));
  }
  return values_[i]->as_int();
}

std::string_view Bound::text(size_t i) const {
  const Value v = get(i);
  require_defined(v);
  if (!v.is_string()) {
    raise(fmt::format("{}() argument must be str, not {}", callee_, type_name(v)));
  }
  return v.text();
}

Value get_path(Heap& heap, Value object, const Value& path) {
  if (!path.is_string()) return get_item(heap, object, path);
  std::string_view rest = path.text();
  while (true) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    const bool number =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    object = get_item(heap, object,
                      number ? Value::of(int64_t{std::stoll(std::string(part))}) : Value::of(part));
    if (dot == std::string_view::npos) return object;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace nanoflow::jinja
