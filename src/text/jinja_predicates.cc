// Tests of the language: what may stand behind `is`.
#include <algorithm>

#include <fmt/format.h>

#include "text/jinja_call.h"
#include "text/jinja_ops.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

template <bool (*kHolds)(const Value&)>
bool plain(Heap&, const Value& v, const Args& raw) {
  const Bound args("test", raw, {});
  return kHolds(v);
}

template <Op kOp>
bool compared(Heap& heap, const Value& v, const Args& raw) {
  const Bound args("test", raw, {"other"}, 1);
  return compare(heap, kOp, v, args.get(0));
}

bool is_defined(const Value& v) {
  return !v.is_undefined();
}
bool is_undefined(const Value& v) {
  return v.is_undefined();
}
bool is_none(const Value& v) {
  return v.is_none();
}
bool is_boolean(const Value& v) {
  return v.kind == Kind::kBool;
}
bool is_true(const Value& v) {
  return v.kind == Kind::kBool && v.boolean;
}
bool is_false(const Value& v) {
  return v.kind == Kind::kBool && !v.boolean;
}
bool is_integer(const Value& v) {
  return v.kind == Kind::kInt;
}
bool is_float(const Value& v) {
  return v.kind == Kind::kDouble;
}
bool is_number(const Value& v) {
  return v.is_number();
}
bool is_string(const Value& v) {
  return v.is_string();
}
bool is_mapping(const Value& v) {
  return v.is_dict();
}
bool is_escaped(const Value& v) {
  return v.is_string() && v.markup;
}

// Has a length and an index, which Jinja's undefined has, too.
bool is_sequence(const Value& v) {
  return v.is_sequence() || v.is_string() || v.is_dict() || v.is_undefined();
}

bool is_iterable(const Value& v) {
  switch (v.kind) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kDict:
    case Kind::kIterator:
    case Kind::kLoop: return true;
    default: return false;
  }
}

bool is_callable(const Value& v) {
  return v.kind == Kind::kMethod || v.kind == Kind::kFunction || v.kind == Kind::kMacro ||
         v.kind == Kind::kUndefined || v.kind == Kind::kLoop;
}

bool has_case(Heap& heap, const Value& v, const Args& raw, std::string_view method) {
  const Bound args("test", raw, {});
  const Value text = to_str(heap, v);
  heap.charge(text.size);
  return is_class(text.text(), method);
}

bool is_lower(Heap& heap, const Value& v, const Args& args) {
  return has_case(heap, v, args, "islower");
}
bool is_upper(Heap& heap, const Value& v, const Args& args) {
  return has_case(heap, v, args, "isupper");
}

template <int kRest>
bool has_parity(Heap& heap, const Value& v, const Args& raw) {
  const Bound args("test", raw, {});
  return equals(heap, arithmetic(heap, Op::kMod, v, Value::of(int64_t{2})),
                Value::of(int64_t{kRest}));
}

bool is_divisible(Heap& heap, const Value& v, const Args& raw) {
  const Bound args("divisibleby", raw, {"num"}, 1);
  return equals(heap, arithmetic(heap, Op::kMod, v, args.get(0)), Value::of(int64_t{0}));
}

bool is_same(Heap& heap, const Value& v, const Args& raw) {
  const Bound args("sameas", raw, {"other"}, 1);
  const Value other = args.get(0);
  return v.kind == other.kind && equals(heap, v, other);
}

struct Named {
  std::string_view name;
  TestFn test;
};

constexpr Named kTests[] = {
    {"defined", plain<is_defined>},
    {"undefined", plain<is_undefined>},
    {"none", plain<is_none>},
    {"boolean", plain<is_boolean>},
    {"true", plain<is_true>},
    {"false", plain<is_false>},
    {"integer", plain<is_integer>},
    {"float", plain<is_float>},
    {"number", plain<is_number>},
    {"string", plain<is_string>},
    {"mapping", plain<is_mapping>},
    {"sequence", plain<is_sequence>},
    {"iterable", plain<is_iterable>},
    {"callable", plain<is_callable>},
    {"escaped", plain<is_escaped>},
    {"lower", is_lower},
    {"upper", is_upper},
    {"odd", has_parity<1>},
    {"even", has_parity<0>},
    {"divisibleby", is_divisible},
    {"sameas", is_same},
    {"in", compared<Op::kIn>},
    {"eq", compared<Op::kEq>},
    {"equalto", compared<Op::kEq>},
    {"==", compared<Op::kEq>},
    {"ne", compared<Op::kNe>},
    {"!=", compared<Op::kNe>},
    {"gt", compared<Op::kGt>},
    {"greaterthan", compared<Op::kGt>},
    {">", compared<Op::kGt>},
    {"ge", compared<Op::kGe>},
    {">=", compared<Op::kGe>},
    {"lt", compared<Op::kLt>},
    {"lessthan", compared<Op::kLt>},
    {"<", compared<Op::kLt>},
    {"le", compared<Op::kLe>},
    {"<=", compared<Op::kLe>},
};

}  // namespace

TestFn find_test(std::string_view name) {
  const auto* at = std::find_if(std::begin(kTests), std::end(kTests),
                                [&](const Named& t) { return t.name == name; });
  return at != std::end(kTests) ? at->test : nullptr;
}

}  // namespace nanoflow::jinja
