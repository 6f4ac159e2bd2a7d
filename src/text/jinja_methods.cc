// Methods of strings, dicts and lists. Like transformers' sandbox, none changes its object.
#include <algorithm>

#include <fmt/format.h>

#include "text/jinja_call.h"
#include "text/jinja_ops.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

using Names = std::initializer_list<std::string_view>;

constexpr std::string_view kStringMethods[] = {
    "capitalize",   "count",        "endswith",   "find",       "format",     "index",
    "isalnum",      "isalpha",      "isdecimal",  "isdigit",    "islower",    "isnumeric",
    "isspace",      "isupper",      "join",       "lower",      "lstrip",     "partition",
    "removeprefix", "removesuffix", "replace",    "rfind",      "rpartition", "rsplit",
    "rstrip",       "split",        "splitlines", "startswith", "strip",      "title",
    "upper"};
constexpr std::string_view kUnsupportedStringMethods[] = {
    "casefold",     "center",      "encode",    "expandtabs", "format_map", "isascii",
    "isidentifier", "isprintable", "istitle",   "ljust",      "maketrans",  "rindex",
    "rjust",        "swapcase",    "translate", "zfill"};
constexpr std::string_view kDictMethods[] = {"copy", "get", "items", "keys", "values"};
constexpr std::string_view kUnsafeDictMethods[] = {"clear", "pop", "popitem", "setdefault",
                                                   "update"};
constexpr std::string_view kListMethods[] = {"copy", "count", "index"};
constexpr std::string_view kUnsafeListMethods[] = {"append", "clear",  "extend",  "insert",
                                                   "pop",    "remove", "reverse", "sort"};

template <size_t N>
bool among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// `start` and `end` arguments of find, count, ...: the byte range they select.
struct Window {
  size_t first_char = 0;
  size_t first_byte = 0;
  std::string_view text;
  bool valid = true;  // false when start lies behind the end: then nothing is found
};

Window window(Heap& heap, std::string_view text, const Bound& args, size_t at) {
  Window w;
  w.text = text;
  if (!args.has(at) && !args.has(at + 1)) return w;
  heap.charge(text.size() / 16);
  const auto size = static_cast<int64_t>(utf8_length(text));
  const auto bound = [&](size_t i, int64_t otherwise) {
    if (args.get(i).is_none()) return otherwise;
    const int64_t v = args.integer(i, otherwise);
    return v < 0 ? std::max<int64_t>(0, v < -size ? 0 : v + size) : v;
  };
  const int64_t first = bound(at, 0);
  const int64_t last = std::min(bound(at + 1, size), size);
  w.valid = first <= size && first <= last;
  if (!w.valid) return w;
  w.first_char = static_cast<size_t>(first);
  w.first_byte = utf8_offset(text, w.first_char);
  const std::string_view tail = text.substr(w.first_byte);
  w.text = tail.substr(0, utf8_offset(tail, static_cast<size_t>(last - first)));
  return w;
}

Value strip_method(Heap& heap, std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {"chars"});
  heap.charge(text.size() / 64);
  const bool left = name != "rstrip";
  const bool right = name != "lstrip";
  if (args.get(0).is_none()) return Value::of(strip(text, nullptr, left, right));
  const std::string_view chars = args.text(0);
  return Value::of(strip(text, &chars, left, right));
}

Value split_method(Heap& heap, std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {"sep", "maxsplit"});
  heap.charge(text.size() / 8);
  heap.check_room(text.size());  // the parts are at most this many
  const int64_t max_split = args.integer(1, -1);
  const auto run = name == "split" ? split : rsplit;
  std::vector<std::string_view> parts;
  if (args.get(0).is_none()) {
    parts = run(text, nullptr, max_split);
  } else {
    const std::string_view sep = args.text(0);
    if (sep.empty()) raise("empty separator");
    heap.charge(search_steps(text, sep, name == "rsplit"));
    parts = run(text, &sep, max_split);
  }
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const std::string_view part : parts) values.push_back(Value::of(part));
  return heap.list(values);
}

Value partition_method(Heap& heap, std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {"sep"}, 1);
  const std::string_view sep = args.text(0);
  if (sep.empty()) raise("empty separator");
  const bool first = name == "partition";
  heap.charge(search_steps(text, sep, !first));
  const size_t at = first ? find_text(text, sep) : text.rfind(sep);
  const Value nothing = Value::of(std::string_view(""));
  if (at == std::string_view::npos) {
    const Value all = Value::of(text);
    return heap.list(
        first ? std::vector{all, nothing, nothing} : std::vector{nothing, nothing, all},
        Kind::kTuple);
  }
  return heap.list(
      {Value::of(text.substr(0, at)), Value::of(sep), Value::of(text.substr(at + sep.size()))},
      Kind::kTuple);
}

Value affix_method(Heap& heap, std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {"prefix", "start", "end"}, 1);
  const Window w = window(heap, text, args, 1);
  const auto matches = [&](const Value& v) {
    if (!v.is_string()) {
      require_defined(v);
      raise(fmt::format("{} first arg must be str or a tuple of str, not {}", name, type_name(v)));
    }
    if (!w.valid) return false;
    return name == "startswith" ? w.text.starts_with(v.text()) : w.text.ends_with(v.text());
  };
  const Value affix = args.get(0);
  if (affix.kind != Kind::kTuple) return Value::of(matches(affix));
  heap.charge(affix.size);
  return Value::of(std::any_of(affix.items, affix.items + affix.size, matches));
}

Value find_method_of_string(Heap& heap, std::string_view name, std::string_view text,
                            const Args& raw) {
  const Bound args(name, raw, {"sub", "start", "end"}, 1);
  const std::string_view sub = args.text(0);
  const Window w = window(heap, text, args, 1);
  heap.charge(search_steps(w.text, sub, name == "rfind"));
  if (name == "count") {
    int64_t count = 0;
    if (!w.valid) return Value::of(count);
    if (sub.empty()) return Value::of(static_cast<int64_t>(utf8_length(w.text)) + 1);
    for (size_t at = 0; (at = find_text(w.text, sub, at)) != std::string_view::npos;
         at += sub.size()) {
      ++count;
    }
    return Value::of(count);
  }
  const size_t at = !w.valid          ? std::string_view::npos
                    : name == "rfind" ? w.text.rfind(sub)
                                      : find_text(w.text, sub);
  if (at == std::string_view::npos) {
    if (name == "index") raise("substring not found");
    return Value::of(int64_t{-1});
  }
  return Value::of(static_cast<int64_t>(w.first_char + utf8_length(w.text.substr(0, at))));
}

Value replace_method(Heap& heap, std::string_view text, const Args& raw) {
  const Bound args("replace", raw, {"old", "new", "count"}, 2);
  const std::string_view from = args.text(0);
  const std::string_view to = args.text(1);
  int64_t left = args.get(2).is_none() ? -1 : args.integer(2, -1);
  heap.charge(search_steps(text, from));
  Text out(heap);
  size_t at = 0;
  if (from.empty()) {  // between all characters and at both ends
    for (; at <= text.size() && left != 0; --left) {
      out.add(to);
      if (at == text.size()) return out.finish();
      const size_t bytes = char_bytes(text, at);
      out.add(text.substr(at, bytes));
      at += bytes;
    }
  }
  while (left-- != 0 && !from.empty()) {
    const size_t found = find_text(text, from, at);
    if (found == std::string_view::npos) break;
    out.add(text.substr(at, found - at));
    out.add(to);
    at = found + from.size();
  }
  out.add(text.substr(at));
  return out.finish();
}

Value join_method(Heap& heap, std::string_view separator, const Args& raw) {
  const Bound args("join", raw, {"iterable"}, 1);
  Text out(heap);
  size_t index = 0;
  for (const Value& item : iterate(heap, args.get(0))) {
    if (!item.is_string()) {
      raise(
          fmt::format("sequence item {}: expected str instance, {} found", index, type_name(item)));
    }
    if (index++ > 0) out.add(separator);
    out.add(item.text());
  }
  return out.finish();
}

Value remove_affix(std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {"affix"}, 1);
  const std::string_view affix = args.text(0);
  if (name == "removeprefix" && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (name == "removesuffix" && text.ends_with(affix)) text.remove_suffix(affix.size());
  return Value::of(text);
}

Value lines_method(Heap& heap, std::string_view text, const Args& raw) {
  const Bound args("splitlines", raw, {"keepends"});
  heap.charge(text.size() / 8);
  std::vector<Value> values;
  for (const std::string_view line : splitlines(text, args.flag(0))) {
    values.push_back(Value::of(line));
  }
  return heap.list(values);
}

Value case_method(Heap& heap, std::string_view name, std::string_view text, const Args& raw) {
  const Bound args(name, raw, {});
  heap.charge(text.size());
  heap.check_room(text.size() * 3);
  if (name == "upper") return heap.string_from(upper(text), text);
  if (name == "lower") return heap.string_from(lower(text), text);
  if (name == "title") return heap.string_from(title(text), text);
  if (name == "capitalize") return heap.string_from(capitalize(text), text);
  return Value::of(is_class(text, name));
}

Value string_method(Heap& heap, std::string_view text, std::string_view name, const Args& args) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return strip_method(heap, name, text, args);
  }
  if (name == "split" || name == "rsplit") return split_method(heap, name, text, args);
  if (name == "partition" || name == "rpartition") return partition_method(heap, name, text, args);
  if (name == "startswith" || name == "endswith") return affix_method(heap, name, text, args);
  if (name == "find" || name == "rfind" || name == "index" || name == "count") {
    return find_method_of_string(heap, name, text, args);
  }
  if (name == "replace") return replace_method(heap, text, args);
  if (name == "join") return join_method(heap, text, args);
  if (name == "format") return brace_format(heap, text, args);
  if (name == "removeprefix" || name == "removesuffix") return remove_affix(name, text, args);
  if (name == "splitlines") return lines_method(heap, text, args);
  return case_method(heap, name, text, args);
}

Value dict_view(Heap& heap, const Value& dict, std::string_view name) {
  std::vector<Value> items;
  heap.check_room(dict.size * sizeof(Value));
  heap.charge(dict.size);
  for (size_t i = 0; i < dict.size; ++i) {
    const Entry& e = dict.entries[i];
    items.push_back(name == "keys"     ? e.key
                    : name == "values" ? e.value
                                       : heap.list({e.key, e.value}, Kind::kTuple));
  }
  return heap.list(items, Kind::kView);
}

Value dict_method(Heap& heap, const Value& dict, std::string_view name, const Args& raw) {
  if (name == "get") {
    const Bound args(name, raw, {"key", "default"}, 1);
    const Value* found = find(heap, dict, args.get(0));
    return found != nullptr ? *found : args.get(1);
  }
  const Bound args(name, raw, {});
  return name == "copy" ? dict : dict_view(heap, dict, name);
}

Value list_method(Heap& heap, const Value& list, std::string_view name, const Args& raw) {
  if (name == "copy") return list;
  const Bound args(name, raw, {"value"}, 1);
  int64_t count = 0;
  for (size_t i = 0; i < list.size; ++i) {
    if (!equals(heap, list.items[i], args.get(0))) continue;
    if (name == "index") return Value::of(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") raise("the value is not in the list");
  return Value::of(count);
}

}  // namespace

MethodKind find_method(Kind receiver, std::string_view name) {
  switch (receiver) {
    case Kind::kString:
      if (among(kStringMethods, name)) return MethodKind::kSupported;
      return among(kUnsupportedStringMethods, name) ? MethodKind::kUnsupported : MethodKind::kNone;
    case Kind::kDict:
      if (among(kDictMethods, name)) return MethodKind::kSupported;
      if (name == "fromkeys") return MethodKind::kUnsupported;
      return among(kUnsafeDictMethods, name) ? MethodKind::kUnsafe : MethodKind::kNone;
    case Kind::kList:
      if (among(kListMethods, name)) return MethodKind::kSupported;
      return among(kUnsafeListMethods, name) ? MethodKind::kUnsafe : MethodKind::kNone;
    case Kind::kTuple:
    case Kind::kRange:
      return name == "count" || name == "index" ? MethodKind::kSupported : MethodKind::kNone;
    default: return MethodKind::kNone;
  }
}

Value call_method(Heap& heap, const Method& method, const Args& args) {
  const Value& self = method.receiver;
  heap.charge(1);
  if (self.is_dict()) return dict_method(heap, self, method.name, args);
  if (!self.is_string()) return list_method(heap, self, method.name, args);
  Value v = string_method(heap, self.text(), method.name, args);
  if (v.is_string() && self.markup) v.markup = true;
  return v;
}

}  // namespace nanoflow::jinja
