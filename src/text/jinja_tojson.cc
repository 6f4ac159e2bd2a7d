// The tojson filter as transformers defines it: Python's json.dumps with ensure_ascii=False.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "text/jinja_call.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

struct Style {
  bool ascii = false;
  bool pretty = false;
  bool sorted = false;
  std::string indent;
  std::string comma = ", ";
  std::string colon = ": ";
};

Style read_style(const Bound& args) {
  Style style;
  style.ascii = args.flag(0);
  style.sorted = args.flag(3);
  const Value indent = args.get(1);
  if (!indent.is_none()) {
    style.pretty = true;
    style.comma = ",";
    if (indent.is_string()) {
      style.indent = indent.text();
    } else {
      const int64_t width = args.integer(1, 0);
      if (width > 1000) raise("tojson: indent is too large");
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(0, width)), ' ');
    }
  }
  const Value separators = args.get(2);
  if (!separators.is_none()) {
    if (!separators.is_sequence() || separators.size != 2 || !separators.items[0].is_string() ||
        !separators.items[1].is_string()) {
      raise("tojson: separators must be two strings");
    }
    style.comma = separators.items[0].text();
    style.colon = separators.items[1].text();
  }
  return style;
}

/// What stands for `c` in a JSON string; "" when it stands for itself.
std::string escape_of(char32_t c, bool ascii) {
  switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    case '\f': return "\\f";
    case '\b': return "\\b";
    default: break;
  }
  const auto code = static_cast<uint32_t>(c);
  if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000)) return fmt::format("\\u{:04x}", code);
  if (!ascii || c < 0x7f) return {};
  return fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((code - 0x10000) >> 10),
                     0xdc00 + (code & 0x3ff));
}

void add_string(Text& out, std::string_view text, bool ascii) {
  out.add("\"");
  size_t plain = 0;  // start of the characters that stand for themselves
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const std::string escape = escape_of(next_char(text, at), ascii);
    if (escape.empty()) continue;
    out.add(text.substr(plain, begin - plain));
    out.add_from(escape, text.substr(begin, at - begin));
    plain = at;
  }
  out.add(text.substr(plain));
  out.add("\"");
}

std::string number(const Value& v) {
  if (v.kind == Kind::kInt) return fmt::format("{}", v.integer);
  if (v.kind == Kind::kBool) return v.boolean ? "true" : "false";
  if (std::isnan(v.real)) return "NaN";
  if (std::isinf(v.real)) return v.real < 0 ? "-Infinity" : "Infinity";
  return double_repr(v.real);
}

class Writer {
 public:
  Writer(Heap& heap, const Style& style, Text& out) : heap_(heap), style_(style), out_(out) {}

  void write(const Value& v, int depth) {
    if (depth > heap_.limits().value_depth) {
      throw TemplateError(TemplateError::kLimit, "tojson: the value is nested too deeply");
    }
    switch (v.kind) {
      case Kind::kNone: out_.add("null"); return;
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kDouble: out_.add(number(v)); return;
      case Kind::kString: add_string(out_, v.text(), style_.ascii); return;
      case Kind::kList:
      case Kind::kTuple: write_list(v, depth); return;
      case Kind::kDict: write_dict(v, depth); return;
      default: raise(fmt::format("Object of type {} is not JSON serializable", type_name(v)));
    }
  }

 private:
  void new_line(int depth) {
    if (!style_.pretty) return;
    out_.add("\n");
    for (int i = 0; i < depth; ++i) out_.add(style_.indent);
  }

  void write_list(const Value& v, int depth) {
    out_.add("[");
    for (size_t i = 0; i < v.size; ++i) {
      if (i > 0) out_.add(style_.comma);
      new_line(depth + 1);
      write(v.items[i], depth + 1);
    }
    if (v.size > 0) new_line(depth);
    out_.add("]");
  }

  void write_dict(const Value& v, int depth) {
    std::vector<const Entry*> order;
    for (size_t i = 0; i < v.size; ++i) order.push_back(&v.entries[i]);
    if (style_.sorted) {
      std::stable_sort(order.begin(), order.end(),
                       [&](const Entry* a, const Entry* b) { return less(heap_, a->key, b->key); });
    }
    out_.add("{");
    for (size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out_.add(style_.comma);
      new_line(depth + 1);
      write_key(order[i]->key);
      out_.add(style_.colon);
      write(order[i]->value, depth + 1);
    }
    if (v.size > 0) new_line(depth);
    out_.add("}");
  }

  void write_key(const Value& key) {
    if (key.is_string()) {
      add_string(out_, key.text(), style_.ascii);
    } else if (key.is_number()) {
      add_string(out_, number(key), false);
    } else if (key.is_none()) {
      out_.add("\"null\"");
    } else {
      raise(fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  Heap& heap_;
  const Style& style_;
  Text& out_;
};

}  // namespace

Value to_json(Heap& heap, const Value& v, const Args& raw) {
  const Style style =
      read_style(Bound("tojson", raw, {"ensure_ascii", "indent", "separators", "sort_keys"}));
  Text out(heap);
  Writer(heap, style, out).write(v, 0);
  return out.finish();
}

}  // namespace nanoflow::jinja
