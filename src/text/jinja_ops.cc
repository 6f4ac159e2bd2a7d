#include "text/jinja_ops.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

constexpr std::string_view kSymbols[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void unsupported(Op op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  if (op == Op::kAdd && (a.is_string() || a.kind == Kind::kList || a.kind == Kind::kTuple)) {
    raise(fmt::format("can only concatenate {0} (not \"{1}\") to {0}", type_name(a), type_name(b)));
  }
  raise(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'",
                    kSymbols[static_cast<size_t>(op)], type_name(a), type_name(b)));
}

[[noreturn]] void overflow() {
  raise("integer does not fit in 64 bits");
}

int64_t floor_div(int64_t a, int64_t b) {
  if (b == -1 && a == INT64_MIN) overflow();
  const int64_t q = a / b;
  return q - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

int64_t floor_mod(int64_t a, int64_t b) {
  if (b == -1) return 0;
  const int64_t r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

double float_mod(double a, double b) {
  double r = std::fmod(a, b);
  if (r != 0.0) return (r < 0) != (b < 0) ? r + b : r;
  return std::copysign(0.0, b);
}

double float_floor_div(double a, double b) {
  const double quotient = (a - float_mod(a, b)) / b;
  const double down = std::floor(quotient);
  return quotient - down > 0.5 ? down + 1.0 : down;
}

Value int_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) raise("0.0 cannot be raised to a negative power");
    return Value::of(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1) return Value::of(exponent == 0 ? int64_t{1} : base);
  if (base == -1) return Value::of(exponent % 2 == 0 ? int64_t{1} : int64_t{-1});
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) overflow();
  }
  return Value::of(result);
}

Value int_arithmetic(Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Op::kSub:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Op::kMul:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::of(result);
    case Op::kPow: return int_power(a, b);
    default: break;
  }
  if (b == 0) raise(op == Op::kDiv ? "division by zero" : "integer division or modulo by zero");
  if (op == Op::kDiv) return Value::of(static_cast<double>(a) / static_cast<double>(b));
  return Value::of(op == Op::kFloorDiv ? floor_div(a, b) : floor_mod(a, b));
}

Value float_arithmetic(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd: return Value::of(a + b);
    case Op::kSub: return Value::of(a - b);
    case Op::kMul: return Value::of(a * b);
    case Op::kPow:
      if (a == 0.0 && b < 0) raise("0.0 cannot be raised to a negative power");
      if (a < 0 && std::trunc(b) != b) raise("a negative number has no real fractional power");
      return Value::of(std::pow(a, b));
    default: break;
  }
  if (b == 0.0) raise(op == Op::kDiv ? "float division by zero" : "float floor division by zero");
  if (op == Op::kDiv) return Value::of(a / b);
  return Value::of(op == Op::kFloorDiv ? float_floor_div(a, b) : float_mod(a, b));
}

Value add_strings(Heap& heap, Value a, Value b) {
  const bool markup = a.markup || b.markup;
  if (markup && !a.markup) a = escape_html(heap, a);
  if (markup && !b.markup) b = escape_html(heap, b);
  heap.charge((a.size + b.size) / 64);
  char* text = heap.allocate<char>(a.size + b.size);
  std::copy_n(a.chars, a.size, text);
  std::copy_n(b.chars, b.size, text + a.size);
  heap.inherit(a.text(), text);
  heap.inherit(b.text(), text + a.size);
  Value v = Value::of(std::string_view(text, a.size + b.size));
  v.markup = markup;
  return v;
}

Value add_lists(Heap& heap, const Value& a, const Value& b) {
  Value* items = heap.allocate<Value>(a.size + b.size);
  heap.charge(a.size + b.size);
  std::uninitialized_copy_n(a.items, a.size, items);
  std::uninitialized_copy_n(b.items, b.size, items + a.size);
  return Value::sequence(a.kind, items, a.size + b.size);
}

Value repeat(Heap& heap, const Value& v, int64_t count) {
  const size_t times = count <= 0 ? 0 : static_cast<size_t>(count);
  size_t total = 0;
  if (__builtin_mul_overflow(v.size, times, &total)) total = SIZE_MAX / 64;
  heap.charge(total / 16);
  if (v.is_string()) {
    char* text = heap.allocate<char>(total);
    for (size_t i = 0; i < total; i += v.size) {
      std::copy_n(v.chars, v.size, text + i);
      heap.inherit(v.text(), text + i);
    }
    Value out = Value::of(std::string_view(text, total));
    out.markup = v.markup;
    return out;
  }
  Value* items = heap.allocate<Value>(total);
  for (size_t i = 0; i < total; i += v.size) std::uninitialized_copy_n(v.items, v.size, items + i);
  return Value::sequence(v.kind, items, total);
}

bool repeatable(const Value& v) {
  return v.is_string() || v.kind == Kind::kList || v.kind == Kind::kTuple;
}

Value undefined_element(Heap& heap, const Value& object, const Value& key) {
  if (key.is_string()) return Value::undefined(Missing::kAttribute, key.text(), object.kind);
  Text name(heap);
  if (key.is_number() || key.is_none()) {
    append_repr(name, heap, key);
  } else {
    name.add(type_name(key));
  }
  return Value::undefined(Missing::kElement, name.finish().text(), object.kind);
}

Value char_at(Heap& heap, const Value& text, int64_t index) {
  heap.charge(text.size / 64);
  const auto count = static_cast<int64_t>(utf8_length(text.text()));
  if (index < 0) index += count;
  if (index < 0 || index >= count) return {};
  const size_t at = utf8_offset(text.text(), static_cast<size_t>(index));
  return Value::of(text.text().substr(at, char_bytes(text.text(), at)));
}

// What object.name finds before items are asked; undefined of kind kHint when there is nothing.
Value own_attribute(Heap& heap, const Value& object, std::string_view name) {
  if (object.kind == Kind::kNamespace) {
    for (const Entry& e : object.space->attributes) {
      heap.charge(1);
      if (e.key.is_string() && e.key.text() == name) return e.value;
    }
    return {};
  }
  if (name.substr(0, 2) == "__") return Value::undefined(Missing::kUnsafe, name, object.kind);
  switch (find_method(object.kind, name)) {
    case MethodKind::kSupported: return heap.method(object, name);
    case MethodKind::kUnsafe: return Value::undefined(Missing::kUnsafe, name, object.kind);
    case MethodKind::kUnsupported:
      raise(fmt::format("the {} method '{}' is not supported", type_name(object), name));
    case MethodKind::kNone: break;
  }
  return {};
}

bool is_nothing(const Value& v) {
  return v.is_undefined() && v.missing == Missing::kHint && v.size == 0;
}

}  // namespace

Value arithmetic(Heap& heap, Op op, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return int_arithmetic(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return float_arithmetic(op, a.as_double(), b.as_double());
  if (op == Op::kAdd) {
    if (a.is_string() && b.is_string()) return add_strings(heap, a, b);
    if (a.kind == b.kind && (a.kind == Kind::kList || a.kind == Kind::kTuple)) {
      return add_lists(heap, a, b);
    }
  }
  if (op == Op::kMul) {
    if (repeatable(a) && b.is_integral()) return repeat(heap, a, b.as_int());
    if (repeatable(b) && a.is_integral()) return repeat(heap, b, a.as_int());
  }
  if (op == Op::kMod && a.is_string()) return percent_format(heap, a.text(), b);
  unsupported(op, a, b);
}

bool compare(Heap& heap, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq: return equals(heap, a, b);
    case Op::kNe: return !equals(heap, a, b);
    case Op::kLt: return less(heap, a, b);
    case Op::kGt: return less(heap, b, a);
    case Op::kLe: return less(heap, a, b) || equals(heap, a, b);
    case Op::kGe: return less(heap, b, a) || equals(heap, a, b);
    case Op::kIn: return contains(heap, b, a);
    default: return !contains(heap, b, a);
  }
}

Value sign(Op op, const Value& a) {
  require_defined(a);
  if (a.kind == Kind::kDouble) return op == Op::kNeg ? Value::of(-a.real) : a;
  if (!a.is_integral()) raise(fmt::format("bad operand type for unary -: '{}'", type_name(a)));
  if (op == Op::kPos) return Value::of(a.as_int());
  if (a.as_int() == INT64_MIN) overflow();
  return Value::of(-a.as_int());
}

Value get_attribute(Heap& heap, const Value& object, std::string_view name) {
  require_defined(object);
  const Value own = own_attribute(heap, object, name);
  if (!is_nothing(own)) return own;
  if (object.is_dict()) {
    const Value* item = find(heap, object, Value::of(name));
    if (item != nullptr) return *item;
  }
  return Value::undefined(Missing::kAttribute, name, object.kind);
}

Value get_item(Heap& heap, const Value& object, const Value& key) {
  require_defined(object);
  if (object.is_dict()) {
    if (key.kind != Kind::kList && key.kind != Kind::kDict) {
      const Value* item = find(heap, object, key);
      if (item != nullptr) return *item;
    }
  } else if (key.is_integral() && object.is_sequence()) {
    const auto size = static_cast<int64_t>(object.size);
    const int64_t index = key.as_int() < 0 ? key.as_int() + size : key.as_int();
    if (index >= 0 && index < size) return object.items[index];
  } else if (key.is_integral() && object.is_string()) {
    const Value c = char_at(heap, object, key.as_int());
    if (!c.is_undefined()) return c;
  }
  if (key.is_string()) {
    const Value own = own_attribute(heap, object, key.text());
    if (!is_nothing(own)) return own;
  }
  return undefined_element(heap, object, key);
}

Value get_slice(Heap& heap, const Value& object, const Value& start, const Value& stop,
                const Value& step) {
  require_defined(object);
  if (!object.is_sequence() && !object.is_string()) {
    raise(fmt::format("'{}' object cannot be sliced", type_name(object)));
  }
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_integral()) {
      raise("slice indices must be integers or None");
    }
  }
  const int64_t by = step.is_none() ? 1 : step.as_int();
  if (by == 0) raise("slice step cannot be zero");
  heap.charge(object.is_string() ? object.size / 64 : 0);
  const int64_t size = length(object);
  const auto clamp = [&](const Value& bound, int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    int64_t at = bound.as_int();
    if (at < 0) at = at < -size ? -1 : at + size;
    if (bound.as_int() < -size) return by > 0 ? int64_t{0} : int64_t{-1};
    return by > 0 ? std::min(at, size) : std::min(at, size - 1);
  };
  const int64_t first = clamp(start, by > 0 ? 0 : size - 1);
  const int64_t last = clamp(stop, by > 0 ? size : -1);
  if (by == 1) {
    const auto count = static_cast<size_t>(std::max<int64_t>(0, last - first));
    if (!object.is_string()) return Value::sequence(object.kind, object.items + first, count);
    const size_t begin = utf8_offset(object.text(), static_cast<size_t>(first));
    const std::string_view tail = object.text().substr(begin);
    Value v = Value::of(tail.substr(0, utf8_offset(tail, count)));
    v.markup = object.markup;
    return v;
  }
  const std::vector<Value> all = iterate(heap, object);
  std::vector<Value> items;
  // Never computes first + by beyond the range: a step may be as large as an int64.
  for (int64_t i = first; by > 0 ? i < last : i > last;) {
    items.push_back(all[static_cast<size_t>(i)]);
    if (by > 0 ? by >= last - i : by <= last - i) break;
    i += by;
  }
  if (!object.is_string()) return heap.list(items, object.kind);
  Text text(heap);
  for (const Value& c : items) text.add(c.text());
  return text.finish();
}

}  // namespace nanoflow::jinja
