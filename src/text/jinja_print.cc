// str() and repr() of values, as Python prints them.
#include <cmath>

#include <fmt/format.h>
#include <utf8proc.h>

#include "text/jinja_string.h"
#include "text/jinja_value.h"

namespace nanoflow::jinja {

std::string double_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::string digits = fmt::format("{}", d);
  if (digits.find_first_of(".e") == std::string::npos) digits += ".0";
  return digits;
}

namespace {

// Python prints a character as itself unless its category is Other or a separator but the space.
bool is_printable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7f;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    default: return true;
  }
}

void append_string_repr(Text& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  const std::string_view quotes(&quote, 1);
  out.add(quotes);
  size_t plain = 0;  // start of the characters that print as themselves
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_char(text, at);
    const auto code = static_cast<uint32_t>(c);
    std::string escape;
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      escape = {'\\', static_cast<char>(c)};
    } else if (c == '\n') {
      escape = "\\n";
    } else if (c == '\r') {
      escape = "\\r";
    } else if (c == '\t') {
      escape = "\\t";
    } else if (is_printable(c)) {
      continue;
    } else {
      escape = code < 0x100     ? fmt::format("\\x{:02x}", code)
               : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                : fmt::format("\\U{:08x}", code);
    }
    out.add(text.substr(plain, begin - plain));
    out.add_from(escape, text.substr(begin, at - begin));
    plain = at;
  }
  out.add(text.substr(plain));
  out.add(quotes);
}

void append_items(Text& out, Heap& heap, const Value& v, int depth) {
  for (size_t i = 0; i < v.size; ++i) {
    if (i > 0) out.add(", ");
    append_repr(out, heap, v.items[i], depth + 1);
  }
}

void append_dict(Text& out, Heap& heap, const Value& v, int depth) {
  out.add("{");
  for (size_t i = 0; i < v.size; ++i) {
    if (i > 0) out.add(", ");
    append_repr(out, heap, v.entries[i].key, depth + 1);
    out.add(": ");
    append_repr(out, heap, v.entries[i].value, depth + 1);
  }
  out.add("}");
}

}  // namespace

void append_repr(Text& out, Heap& heap, const Value& v, int depth) {
  if (depth > heap.limits().value_depth) {
    throw TemplateError(TemplateError::kLimit, "a value of the chat template is nested too deeply");
  }
  switch (v.kind) {
    case Kind::kUndefined: out.add("Undefined"); return;
    case Kind::kNone: out.add("None"); return;
    case Kind::kBool: out.add(v.boolean ? "True" : "False"); return;
    case Kind::kInt: out.add(fmt::format("{}", v.integer)); return;
    case Kind::kDouble: out.add(double_repr(v.real)); return;
    case Kind::kString:
      if (v.markup) out.add("Markup(");
      append_string_repr(out, v.text());
      if (v.markup) out.add(")");
      return;
    case Kind::kList:
      out.add("[");
      append_items(out, heap, v, depth);
      out.add("]");
      return;
    case Kind::kTuple:
      out.add("(");
      append_items(out, heap, v, depth);
      out.add(v.size == 1 ? ",)" : ")");
      return;
    case Kind::kDict: append_dict(out, heap, v, depth); return;
    default: raise(fmt::format("a {} cannot be printed", type_name(v)));
  }
}

void append_str(Text& out, Heap& heap, const Value& v) {
  if (v.is_string()) {
    out.add(v.text());
  } else if (!v.is_undefined()) {
    append_repr(out, heap, v);
  }
}

Value to_str(Heap& heap, const Value& v) {
  if (v.is_string()) return v;
  Text out(heap);
  append_str(out, heap, v);
  return out.finish();
}

}  // namespace nanoflow::jinja
