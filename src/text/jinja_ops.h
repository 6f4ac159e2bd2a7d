// Operators of the language: arithmetic, subscripts, slices, attribute lookup, formatting.
#pragma once

#include <string_view>

#include "text/jinja_call.h"
#include "text/jinja_value.h"

namespace nanoflow::jinja {

enum class Op : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,  // arithmetic
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kIn,
  kNotIn,  // comparison
  kNeg,
  kPos,
  kNot,  // unary
};

/// a op b for the arithmetic operators. Integers are 64 bits; overflow raises.
Value arithmetic(Heap& heap, Op op, const Value& a, const Value& b);
/// a op b for the comparisons.
bool compare(Heap& heap, Op op, const Value& a, const Value& b);
/// -a or +a.
Value sign(Op op, const Value& a);

/// object.name: methods first, then items (Jinja's order for the dot).
Value get_attribute(Heap& heap, const Value& object, std::string_view name);
/// object[key]: items first, then attributes (Jinja's order for the bracket).
Value get_item(Heap& heap, const Value& object, const Value& key);
/// object[start:stop:step]; none stands for a bound that is left out.
Value get_slice(Heap& heap, const Value& object, const Value& start, const Value& stop,
                const Value& step);

/// Python's `format % values` with the conversions s r d i u f F e g x X o c and %%.
Value percent_format(Heap& heap, std::string_view format, const Value& values);
/// str.format with fields "{}", "{0}" and "{name}", without format specifications.
Value brace_format(Heap& heap, std::string_view format, const Args& args);
/// HTML-escapes & < > ' " (MarkupSafe's spelling).
Value escape_html(Heap& heap, const Value& text);

}  // namespace nanoflow::jinja
