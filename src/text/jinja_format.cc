// "%s" % values, "{}".format(values) and HTML escaping.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "text/jinja_ops.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

// Wide fields are a way to ask for memory; nobody lays out a prompt with more.
constexpr int64_t kMaxWidth = 10'000;

struct Spec {
  bool left = false, zero = false, plus = false, space = false, alternate = false;
  int64_t width = 0;
  int64_t precision = -1;
  char conversion = 's';
};

int64_t read_number(std::string_view format, size_t& at) {
  int64_t n = 0;
  while (at < format.size() && format[at] >= '0' && format[at] <= '9') {
    n = std::min(n * 10 + (format[at++] - '0'), kMaxWidth + 1);
  }
  if (n > kMaxWidth) raise("a format field is too wide");
  return n;
}

Spec read_spec(std::string_view format, size_t& at) {
  Spec spec;
  for (; at < format.size(); ++at) {
    const char c = format[at];
    if (c == '-')
      spec.left = true;
    else if (c == '0')
      spec.zero = true;
    else if (c == '+')
      spec.plus = true;
    else if (c == ' ')
      spec.space = true;
    else if (c == '#')
      spec.alternate = true;
    else
      break;
  }
  if (at < format.size() && format[at] == '*') raise("'*' in a format is not supported");
  spec.width = read_number(format, at);
  if (at < format.size() && format[at] == '.') spec.precision = read_number(format, ++at);
  if (at >= format.size()) raise("incomplete format");
  spec.conversion = format[at++];
  return spec;
}

std::string convert_int(const Spec& spec, const Value& v) {
  require_defined(v);
  const bool hex_or_octal =
      spec.conversion == 'x' || spec.conversion == 'X' || spec.conversion == 'o';
  if (!v.is_number() || (hex_or_octal && !v.is_integral())) {
    raise(fmt::format("%{} format: a real number is required, not {}", spec.conversion,
                      type_name(v)));
  }
  if (!v.is_integral() && !(std::abs(v.real) < 0x1p63)) raise("integer does not fit in 64 bits");
  const int64_t i = v.is_integral() ? v.as_int() : static_cast<int64_t>(v.real);
  const uint64_t magnitude = i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
  std::string digits = spec.conversion == 'x'   ? fmt::format("{:x}", magnitude)
                       : spec.conversion == 'X' ? fmt::format("{:X}", magnitude)
                       : spec.conversion == 'o' ? fmt::format("{:o}", magnitude)
                                                : fmt::format("{}", magnitude);
  if (spec.alternate && hex_or_octal) digits.insert(0, std::string("0") + spec.conversion);
  const auto wanted = static_cast<size_t>(std::max<int64_t>(0, spec.precision));
  if (digits.size() < wanted) digits.insert(0, wanted - digits.size(), '0');
  return (i < 0 ? "-" : spec.plus ? "+" : spec.space ? " " : "") + digits;
}

std::string convert_float(const Spec& spec, const Value& v) {
  require_defined(v);
  if (!v.is_number()) raise(fmt::format("must be real number, not {}", type_name(v)));
  const auto precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  const double d = v.as_double();
  std::string s;
  switch (spec.conversion) {
    case 'e': s = fmt::format("{:.{}e}", d, precision); break;
    case 'E': s = fmt::format("{:.{}E}", d, precision); break;
    case 'g': s = fmt::format("{:.{}g}", d, precision); break;
    case 'G': s = fmt::format("{:.{}G}", d, precision); break;
    default: s = fmt::format("{:.{}f}", d, precision); break;
  }
  if (s[0] != '-' && (spec.plus || spec.space)) s.insert(0, 1, spec.plus ? '+' : ' ');
  return s;
}

std::string_view convert(Heap& heap, const Spec& spec, const Value& v) {
  switch (spec.conversion) {
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': return heap.string(convert_int(spec, v)).text();
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': return heap.string(convert_float(spec, v)).text();
    case 's':
    case 'r': {
      Text text(heap);
      if (spec.conversion == 's')
        append_str(text, heap, v);
      else
        append_repr(text, heap, v);
      const std::string_view s = text.finish().text();
      if (spec.precision < 0) return s;
      return s.substr(0, utf8_offset(s, static_cast<size_t>(spec.precision)));
    }
    default: raise(fmt::format("unsupported format character '{}'", spec.conversion));
  }
}

void add_padded(Text& out, const Spec& spec, std::string_view s) {
  const auto width = static_cast<size_t>(spec.width);
  const size_t size = utf8_length(s);
  const size_t padding = width > size ? width - size : 0;
  const bool number = spec.conversion != 's' && spec.conversion != 'r';
  if (spec.left) {
    out.add(s);
    out.fill(padding, ' ');
  } else if (spec.zero && number) {
    const size_t sign_size = !s.empty() && (s[0] == '-' || s[0] == '+' || s[0] == ' ') ? 1 : 0;
    out.add(s.substr(0, sign_size));
    out.fill(padding, '0');
    out.add(s.substr(sign_size));
  } else {
    out.fill(padding, ' ');
    out.add(s);
  }
}

}  // namespace

Value percent_format(Heap& heap, std::string_view format, const Value& values) {
  Text out(heap);
  size_t next = 0;
  const bool many = values.kind == Kind::kTuple;
  const auto take = [&]() -> Value {
    if (next >= (many ? values.size : 1)) raise("not enough arguments for format string");
    return many ? values.items[next++] : (++next, values);
  };
  bool by_name = false;
  for (size_t at = 0; at < format.size();) {
    const size_t percent = std::min(format.find('%', at), format.size());
    out.add(format.substr(at, percent - at));
    at = percent + 1;
    if (percent == format.size()) break;
    Value named;
    bool has_name = false;
    if (at < format.size() && format[at] == '(') {
      const size_t end = format.find(')', at);
      if (end == std::string_view::npos) raise("incomplete format key");
      if (!values.is_dict()) raise("format requires a mapping");
      const std::string_view key = format.substr(at + 1, end - at - 1);
      const Value* found = find(heap, values, Value::of(key));
      if (found == nullptr) raise(fmt::format("format has no value for '{}'", key));
      named = *found;
      has_name = by_name = true;
      at = end + 1;
    }
    const Spec spec = read_spec(format, at);
    if (spec.conversion == '%') {
      out.add("%");
    } else {
      add_padded(out, spec, convert(heap, spec, has_name ? named : take()));
    }
  }
  // Python lets what has items (but no tuple or string) stay unused.
  const bool may_stay = by_name || values.is_dict() || values.is_undefined() ||
                        values.kind == Kind::kList || values.kind == Kind::kRange;
  if (!may_stay && next < (many ? values.size : 1)) {
    raise("not all arguments converted during string formatting");
  }
  return out.finish();
}

Value brace_format(Heap& heap, std::string_view format, const Args& args) {
  Text out(heap);
  size_t next = 0;
  for (size_t at = 0; at < format.size();) {
    const char c = format[at];
    if ((c == '{' || c == '}') && at + 1 < format.size() && format[at + 1] == c) {
      out.add(format.substr(at, 1));
      at += 2;
    } else if (c == '{') {
      const size_t end = format.find('}', at);
      if (end == std::string_view::npos) raise("expected '}' before end of string");
      const std::string_view field = format.substr(at + 1, end - at - 1);
      if (field.find_first_of("{:!.[") != std::string_view::npos) {
        raise(fmt::format("the format field '{{{}}}' is not supported", field));
      }
      at = end + 1;
      const bool number = field.find_first_not_of("0123456789") == std::string_view::npos;
      if (number) {
        const size_t index = field.empty()      ? next++
                             : field.size() > 6 ? SIZE_MAX
                                                : std::stoul(std::string(field));
        if (index >= args.positional.size()) raise("replacement index out of range");
        append_str(out, heap, args.positional[index]);
        continue;
      }
      const Value* found = nullptr;
      for (const auto& [name, value] : args.named) found = name == field ? &value : found;
      if (found == nullptr) raise(fmt::format("format has no value for '{}'", field));
      append_str(out, heap, *found);
    } else if (c == '}') {
      raise("single '}' encountered in format string");
    } else {
      const size_t end = std::min(format.find_first_of("{}", at), format.size());
      out.add(format.substr(at, end - at));
      at = end;
    }
  }
  return out.finish();
}

Value escape_html(Heap& heap, const Value& text) {
  Text out(heap);
  for (size_t at = 0; at < text.size; ++at) {
    const std::string_view c = text.text().substr(at, 1);
    switch (c[0]) {
      case '&': out.add_from("&amp;", c); break;
      case '<': out.add_from("&lt;", c); break;
      case '>': out.add_from("&gt;", c); break;
      case '\'': out.add_from("&#39;", c); break;
      case '"': out.add_from("&#34;", c); break;
      default: out.add(c); break;
    }
  }
  Value v = out.finish();
  v.markup = true;
  return v;
}

}  // namespace nanoflow::jinja
