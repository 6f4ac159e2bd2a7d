#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "text/jinja_string.h"

namespace nanoflow::jinja {

void raise(const std::string& message) {
  throw TemplateError(TemplateError::kRun, message);
}

namespace {

Value json_value(Heap& heap, const Json& json, int depth) {
  if (depth > heap.limits().value_depth) raise("a value of the request is nested too deeply");
  heap.charge(1);
  if (json.is_null()) return Value::none();
  if (json.is_bool()) return Value::of(json.as_bool());
  if (json.is_int()) return Value::of(json.as_int());
  if (json.is_double()) return Value::of(json.as_double());
  if (json.is_string()) return Value::of(std::string_view(json.as_string()));
  if (json.is_array()) {
    std::vector<Value> items;
    items.reserve(json.as_array().size());
    for (const Json& item : json.as_array()) items.push_back(json_value(heap, item, depth + 1));
    return heap.list(items);
  }
  std::vector<Entry> entries;
  entries.reserve(json.as_object().size());
  for (const auto& [key, value] : json.as_object()) {
    entries.push_back({Value::of(std::string_view(key)), json_value(heap, value, depth + 1)});
  }
  return heap.dict(entries);
}

void check_depth(const Heap& heap, int depth) {
  if (depth > heap.limits().value_depth) {
    throw TemplateError(TemplateError::kLimit, "a value of the chat template is nested too deeply");
  }
}

bool same_kind_of_sequence(const Value& a, const Value& b) {
  return a.is_sequence() && a.kind == b.kind;
}

// Exact also where the integer has no double of its own.
bool int_equals_double(int64_t i, double d) {
  return d >= -0x1p63 && d < 0x1p63 && std::trunc(d) == d && static_cast<int64_t>(d) == i;
}

bool number_equals(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_integral()) return int_equals_double(a.as_int(), b.real);
  if (b.is_integral()) return int_equals_double(b.as_int(), a.real);
  return a.real == b.real;
}

bool dict_equals(Heap& heap, const Value& a, const Value& b, int depth) {
  if (a.size != b.size) return false;
  for (size_t i = 0; i < a.size; ++i) {
    const Value* other = find(heap, b, a.entries[i].key);
    if (other == nullptr || !equals(heap, a.entries[i].value, *other, depth + 1)) return false;
  }
  return true;
}

bool hashable(Heap& heap, const Value& v, int depth) {
  if (v.kind == Kind::kTuple) {
    check_depth(heap, depth);
    heap.charge(v.size);
    for (size_t i = 0; i < v.size; ++i) {
      if (!hashable(heap, v.items[i], depth + 1)) return false;
    }
  }
  return v.kind != Kind::kList && v.kind != Kind::kDict;
}

}  // namespace

Value from_json(Heap& heap, const Json& json) {
  return json_value(heap, json, 0);
}

std::string_view type_name(const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kDouble: return "float";
    case Kind::kString: return "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kRange: return "range";
    case Kind::kView: return "dict view";
    case Kind::kDict: return "dict";
    case Kind::kIterator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kLoop: return "LoopContext";
    case Kind::kMethod: return "builtin_function_or_method";
    case Kind::kFunction: return "function";
    case Kind::kMacro: return "Macro";
  }
  return "object";
}

std::string undefined_message(const Value& v) {
  const std::string_view name = v.text();
  const std::string_view owner = type_name(Value::of(v.owner));
  switch (v.missing) {
    case Missing::kVariable: return fmt::format("'{}' is undefined", name);
    case Missing::kAttribute:
      if (v.owner == Kind::kNone) return fmt::format("'None' has no attribute '{}'", name);
      return fmt::format("'{} object' has no attribute '{}'", owner, name);
    case Missing::kElement: return fmt::format("{} object has no element {}", owner, name);
    case Missing::kUnsafe:
      return fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, owner);
    case Missing::kHint: break;
  }
  return std::string(name);
}

void require_defined(const Value& v) {
  if (v.is_undefined()) raise(undefined_message(v));
}

bool truthy(const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool: return v.boolean;
    case Kind::kInt: return v.integer != 0;
    case Kind::kDouble: return v.real != 0.0;
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kDict: return v.size != 0;
    default: return true;
  }
}

bool equals(Heap& heap, const Value& a, const Value& b, int depth) {
  heap.charge(1);
  check_depth(heap, depth);
  if (a.is_number() && b.is_number()) return number_equals(a, b);
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kUndefined:
    case Kind::kNone: return true;
    case Kind::kString: heap.charge(a.size / 256); return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
      if (a.size != b.size) return false;
      if (a.items == b.items) return true;
      for (size_t i = 0; i < a.size; ++i) {
        if (!equals(heap, a.items[i], b.items[i], depth + 1)) return false;
      }
      return true;
    case Kind::kDict: return a.entries == b.entries || dict_equals(heap, a, b, depth);
    case Kind::kMethod: return a.method == b.method;
    case Kind::kFunction: return a.function == b.function;
    case Kind::kNamespace: return a.space == b.space;
    default: return a.items == b.items;
  }
}

bool less(Heap& heap, const Value& a, const Value& b, int depth) {
  heap.charge(1);
  check_depth(heap, depth);
  require_defined(a);
  require_defined(b);
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() < b.as_double();
  if (a.is_string() && b.is_string()) {
    heap.charge(std::min(a.size, b.size) / 256);
    return a.text() < b.text();  // UTF-8 bytes order as code points do
  }
  if (same_kind_of_sequence(a, b) && a.kind != Kind::kRange) {
    const size_t common = std::min(a.size, b.size);
    for (size_t i = 0; i < common; ++i) {
      if (!equals(heap, a.items[i], b.items[i], depth + 1)) {
        return less(heap, a.items[i], b.items[i], depth + 1);
      }
    }
    return a.size < b.size;
  }
  raise(fmt::format("'<' not supported between instances of '{}' and '{}'", type_name(a),
                    type_name(b)));
}

const Value* find(Heap& heap, const Value& dict, const Value& key) {
  if (!hashable(heap, key, 0)) raise(fmt::format("unhashable type: '{}'", type_name(key)));
  heap.charge(dict.size / 8);
  for (size_t i = 0; i < dict.size; ++i) {
    const Entry& entry = dict.entries[i];
    if (key.is_string()) {
      if (entry.key.is_string() && entry.key.text() == key.text()) return &entry.value;
    } else if (equals(heap, entry.key, key)) {
      return &entry.value;
    }
  }
  return nullptr;
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::kUndefined: return false;
    case Kind::kString:
      if (!item.is_string()) {
        raise(
            fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
      }
      heap.charge(search_steps(container.text(), item.text()));
      return find_text(container.text(), item.text()) != std::string_view::npos;
    case Kind::kDict: return find(heap, container, item) != nullptr;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
      for (size_t i = 0; i < container.size; ++i) {
        if (equals(heap, container.items[i], item)) return true;
      }
      return false;
    case Kind::kIterator:
      while (container.iterator->next < container.iterator->size) {
        if (equals(heap, container.iterator->items[container.iterator->next++], item)) return true;
      }
      return false;
    default: raise(fmt::format("argument of type '{}' is not iterable", type_name(container)));
  }
}

std::vector<Value> iterate(Heap& heap, const Value& v) {
  std::vector<Value> items;
  heap.check_room(v.kind == Kind::kDict ? v.size * sizeof(Value) : 0);
  switch (v.kind) {
    case Kind::kUndefined: return items;
    case Kind::kString:
      heap.charge(v.size);
      heap.check_room(v.size * sizeof(Value));
      for (size_t at = 0; at < v.size;) {
        const size_t bytes = char_bytes(v.text(), at);
        items.push_back(Value::of(v.text().substr(at, bytes)));
        at += bytes;
      }
      return items;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
      heap.charge(v.size);
      items.assign(v.items, v.items + v.size);
      return items;
    case Kind::kDict:
      heap.charge(v.size);
      for (size_t i = 0; i < v.size; ++i) items.push_back(v.entries[i].key);
      return items;
    case Kind::kIterator:
      heap.charge(v.iterator->size - v.iterator->next);
      items.assign(v.iterator->items + v.iterator->next, v.iterator->items + v.iterator->size);
      v.iterator->next = v.iterator->size;
      return items;
    default: raise(fmt::format("'{}' object is not iterable", type_name(v)));
  }
}

int64_t length(const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined: return 0;
    case Kind::kString: return static_cast<int64_t>(utf8_length(v.text()));
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kDict: return static_cast<int64_t>(v.size);
    default: raise(fmt::format("object of type '{}' has no len()", type_name(v)));
  }
}

}  // namespace nanoflow::jinja
