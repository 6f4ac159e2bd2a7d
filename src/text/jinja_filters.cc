// Filters on text, numbers and single values.
#include "text/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "text/jinja_ops.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

Value with_markup(Value v, const Value& source) {
  if (v.is_string()) v.markup = source.markup;
  return v;
}

// Filters named like a string method apply it to str(input).
template <const char* kName>
Value as_method(Heap& heap, const Value& in, const Args& args) {
  return call_method(heap, Method{to_str(heap, in), kName}, args);
}
constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kCapitalize[] = "capitalize";
constexpr char kStrip[] = "strip";

Value replace_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("replace", raw, {"old", "new", "count"}, 2);
  Args strings;
  strings.positional = {to_str(heap, args.get(0)), to_str(heap, args.get(1)), args.get(2)};
  return call_method(heap, Method{to_str(heap, in), "replace"}, strings);
}

bool starts_word(char32_t c) {
  return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
}

// Not str.title: a word starts behind whitespace or one of -({[<, so "it's" stays one word.
Value title_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("title", raw, {});
  const Value text = to_str(heap, in);
  heap.charge(text.size);
  heap.check_room(text.size * 3);
  std::string out;
  bool first = true;
  std::string_view word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t head = char_bytes(word, 0);
    out += upper(word.substr(0, head)) + lower(word.substr(head));
    word = {};
  };
  for (size_t at = 0; at < text.size;) {
    const size_t begin = at;
    const bool separator = starts_word(next_char(text.text(), at));
    if (separator != first && !word.empty()) flush();
    first = separator;
    word = word.empty() ? text.text().substr(begin, at - begin)
                        : std::string_view(word.data(), word.size() + at - begin);
  }
  flush();
  return with_markup(heap.string_from(out, text.text()), text);
}

Value string_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("string", raw, {});
  return to_str(heap, in);
}

Value safe_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("safe", raw, {});
  Value v = to_str(heap, in);
  v.markup = true;
  return v;
}

Value escape_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("escape", raw, {});
  const Value text = to_str(heap, in);
  return text.markup ? text : escape_html(heap, text);
}

Value default_filter(Heap&, const Value& in, const Args& raw) {
  const Bound args("default", raw, {"default_value", "boolean"});
  const bool replace = in.is_undefined() || (args.flag(1) && !truthy(in));
  return replace ? args.get(0, Value::of(std::string_view(""))) : in;
}

Value format_filter(Heap& heap, const Value& in, const Args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    raise("can't handle positional and keyword arguments at the same time");
  }
  const Value text = to_str(heap, in);
  if (args.named.empty()) {
    return percent_format(heap, text.text(), heap.list(args.positional, Kind::kTuple));
  }
  std::vector<Entry> entries;
  for (const auto& [name, value] : args.named) entries.push_back({Value::of(name), value});
  return percent_format(heap, text.text(), heap.dict(entries));
}

Value indent_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("indent", raw, {"width", "first", "blank"});
  if (!in.is_string()) {
    require_defined(in);
    raise(fmt::format("indent: expected a string, not {}", type_name(in)));
  }
  Value pad = args.get(0);
  if (!pad.is_string()) {
    Text spaces(heap);
    spaces.fill(static_cast<size_t>(std::max<int64_t>(0, args.integer(0, 4))), ' ');
    pad = spaces.finish();
  }
  const bool blank = args.flag(2);
  // Python appends a newline before splitlines, so that a final one survives.
  Text whole(heap);
  whole.add(in.text());
  whole.add("\n");
  const Value text = whole.finish();
  Text out(heap);
  if (args.flag(1)) out.add(pad.text());
  bool first = true;
  for (const std::string_view line : splitlines(text.text(), false)) {
    if (!first) out.add("\n");
    if (!first && (blank || !line.empty())) out.add(pad.text());
    out.add(line);
    first = false;
  }
  return with_markup(out.finish(), in);
}

// Python's int("..."), without underscores beyond single ones between digits.
bool parse_int(std::string_view text, int64_t base, int64_t& out) {
  text = strip(text, nullptr, true, true);
  const bool negative = text.starts_with("-");
  if (negative || text.starts_with("+")) text.remove_prefix(1);
  const auto prefixed = [&](char letter) {
    return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter;
  };
  if ((base == 16 && prefixed('x')) || (base == 8 && prefixed('o')) ||
      (base == 2 && prefixed('b'))) {
    text.remove_prefix(2);
  }
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] != '_') continue;
    digits += text[i];
  }
  if (digits.empty() || digits[0] == '-') return false;
  if (negative) digits.insert(0, "-");
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), out, static_cast<int>(base));
  if (error == std::errc::result_out_of_range) raise("integer does not fit in 64 bits");
  return error == std::errc() && end == digits.data() + digits.size();
}

bool parse_float(std::string_view text, double& out) {
  text = strip(text, nullptr, true, true);
  std::string_view body = text;
  if (body.starts_with("-") || body.starts_with("+")) body.remove_prefix(1);
  if (text.starts_with("+")) text.remove_prefix(1);
  if (body.empty() || body[0] == '-' || body[0] == '+') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc::result_out_of_range) {
    out = std::strtod(std::string(text).c_str(), nullptr);
  }
  return error != std::errc::invalid_argument && end == text.data() + text.size();
}

bool float_to_int(double d, int64_t& out) {
  if (!std::isfinite(d)) return false;
  if (!(d >= -0x1p63 && d < 0x1p63)) raise("integer does not fit in 64 bits");
  out = static_cast<int64_t>(d);
  return true;
}

Value int_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("int", raw, {"default", "base"});
  const Value otherwise = args.get(0, Value::of(int64_t{0}));
  const int64_t base = args.integer(1, 10);
  if (base < 2 || base > 36) raise("int() base must be >= 2 and <= 36");
  require_defined(in);
  int64_t i = 0;
  double d = 0;
  if (in.is_integral()) return Value::of(in.as_int());
  if (in.kind == Kind::kDouble) return float_to_int(in.real, i) ? Value::of(i) : otherwise;
  if (!in.is_string()) return otherwise;
  heap.charge(in.size / 16);
  if (parse_int(in.text(), base, i)) return Value::of(i);
  return parse_float(in.text(), d) && float_to_int(d, i) ? Value::of(i) : otherwise;
}

Value float_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("float", raw, {"default"});
  require_defined(in);
  double d = 0;
  if (in.is_number()) return Value::of(in.as_double());
  heap.charge(in.is_string() ? in.size / 16 : 0);
  if (in.is_string() && parse_float(in.text(), d)) return Value::of(d);
  return args.get(0, Value::of(0.0));
}

Value abs_filter(Heap&, const Value& in, const Args& raw) {
  const Bound args("abs", raw, {});
  require_defined(in);
  if (!in.is_number()) raise(fmt::format("bad operand type for abs(): '{}'", type_name(in)));
  if (in.kind == Kind::kDouble) return Value::of(std::abs(in.real));
  return in.as_int() < 0 ? sign(Op::kNeg, in) : Value::of(in.as_int());
}

// Python's round: correctly rounded decimal, ties to even.
double round_common(double d, int64_t digits) {
  if (!std::isfinite(d)) return d;
  if (digits > 300) return d;
  if (digits < -300) return 0.0 * d;
  if (digits >= 0) {
    return std::strtod(fmt::format("{:.{}f}", d, static_cast<int>(digits)).c_str(), nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(d / scale) * scale;
}

Value round_filter(Heap&, const Value& in, const Args& raw) {
  const Bound args("round", raw, {"precision", "method"});
  require_defined(in);
  const std::string_view method = args.has(1) ? args.text(1) : "common";
  const int64_t precision = args.integer(0, 0);
  if (!in.is_number()) raise(fmt::format("type {} doesn't define round", type_name(in)));
  if (method == "common") {
    if (in.is_integral() && precision >= 0) return Value::of(in.as_int());
    const double rounded = round_common(in.as_double(), precision);
    if (!in.is_integral()) return Value::of(rounded);
    return Value::of(static_cast<int64_t>(rounded));
  }
  if (method != "ceil" && method != "floor") raise("method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = in.as_double() * scale;
  return Value::of((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr NamedFilter kFilters[] = {
    {"abs", abs_filter},          {"capitalize", as_method<kCapitalize>},
    {"d", default_filter},        {"default", default_filter},
    {"e", escape_filter},         {"escape", escape_filter},
    {"float", float_filter},      {"format", format_filter},
    {"indent", indent_filter},    {"int", int_filter},
    {"lower", as_method<kLower>}, {"replace", replace_filter},
    {"round", round_filter},      {"safe", safe_filter},
    {"string", string_filter},    {"title", title_filter},
    {"tojson", to_json},          {"trim", as_method<kStrip>},
    {"upper", as_method<kUpper>},
};

}  // namespace

FilterFn find_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [&](const NamedFilter& f) { return f.name == name; });
  return at != std::end(kFilters) ? at->filter : find_sequence_filter(name);
}

}  // namespace nanoflow::jinja
