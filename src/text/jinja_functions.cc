// Global functions and the attributes of `loop`.
#include <ctime>

#include <fmt/format.h>

#include "text/jinja_machine.h"

namespace nanoflow::jinja {

namespace {

enum Function : int { kRange, kDict, kNamespace, kRaiseException, kStrftimeNow };

constexpr std::string_view kFunctions[] = {"range", "dict", "namespace", "raise_exception",
                                           "strftime_now"};

constexpr int64_t kMaxRange = 100'000;  // the sandbox's limit in Jinja

// Python's strftime knows %f and knows no zone for a naive time; the C library differs.
std::string c_format(std::string_view format) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out += format[i];
      continue;
    }
    const char c = format[++i];
    if (c == 'f') {
      out += "000000";
    } else if (c != 'z' && c != 'Z') {
      out += '%';
      out += c;
    }
  }
  return out;
}

}  // namespace

void Machine::define_functions() {
  for (int i = 0; i < static_cast<int>(std::size(kFunctions)); ++i) {
    const Symbol symbol = find_symbol(kFunctions[i]);
    if (symbol < 0) continue;
    Value v = Value::of(Kind::kFunction);
    v.function = i;
    set(*scope_, symbol, v);
  }
}

Value Machine::call_function(int function, const Args& args) {
  switch (function) {
    case kRange: return make_range(args);
    case kDict: return make_dict(args);
    case kNamespace: {
      const Value attributes = make_dict(args);
      for (size_t i = 0; i < attributes.size; ++i) {
        const Value& key = attributes.entries[i].key;
        if (key.is_string() && key.text().starts_with('_')) {
          raise("a namespace attribute must not start with an underscore");
        }
      }
      return heap_.new_namespace(attributes);
    }
    case kRaiseException: {
      const Bound bound("raise_exception", args, {"message"}, 1);
      throw TemplateError(TemplateError::kRaised, std::string(to_str(heap_, bound.get(0)).text()));
    }
    default: return strftime_now(args);
  }
}

Value Machine::make_range(const Args& raw) {
  const Bound args("range", raw, {"start", "stop", "step"}, 1);
  const int64_t start = args.has(1) ? args.integer(0, 0) : 0;
  const int64_t stop = args.integer(args.has(1) ? 1 : 0, 0);
  const int64_t step = args.integer(2, 1);
  if (step == 0) raise("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    }
    items.push_back(Value::of(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return heap_.list(items, Kind::kRange);
}

// dict(mapping), dict(pairs), dict(a=1).
Value Machine::make_dict(const Args& raw) {
  std::vector<Entry> entries;
  if (raw.positional.size() > 1) raise("dict expected at most 1 argument");
  if (!raw.positional.empty()) {
    const Value& source = raw.positional[0];
    if (source.is_dict()) {
      entries.assign(source.entries, source.entries + source.size);
    } else {
      for (const Value& pair : iterate(heap_, source)) {
        const std::vector<Value> both = iterate(heap_, pair);
        if (both.size() != 2) raise("dictionary update sequence element has length other than 2");
        entries.push_back({both[0], both[1]});
      }
    }
  }
  for (const auto& [name, value] : raw.named) entries.push_back({Value::of(name), value});
  heap_.charge(entries.size());
  return heap_.dict(entries);
}

Value Machine::strftime_now(const Args& raw) {
  const Bound args("strftime_now", raw, {"format"}, 1);
  constexpr size_t kMaxBytes = 4096;
  const std::string_view format = args.text(0);
  if (format.size() > kMaxBytes / 4) raise("strftime_now: the format is too long");
  const auto now = static_cast<std::time_t>(context_.clock());
  std::tm parts{};
  localtime_r(&now, &parts);
  // The mark keeps an empty result apart from one that does not fit.
  const std::string marked = c_format(format) + ".";
  char buffer[kMaxBytes];
  const size_t size = std::strftime(buffer, sizeof(buffer), marked.c_str(), &parts);
  if (size == 0) raise("strftime_now: the result is too long");
  return heap_.string_from(std::string_view(buffer, size - 1), format);
}

Value Machine::loop_attribute(LoopState& loop, std::string_view name) {
  if (name == "index") return Value::of(loop.index0 + 1);
  if (name == "index0") return Value::of(loop.index0);
  if (name == "first") return Value::of(loop.index0 == 0);
  if (name == "last") return Value::of(!peek(loop));
  if (name == "length") return Value::of(loop_length(loop));
  if (name == "revindex") return Value::of(loop_length(loop) - loop.index0);
  if (name == "revindex0") return Value::of(loop_length(loop) - loop.index0 - 1);
  if (name == "depth") return Value::of(int64_t{1});
  if (name == "depth0") return Value::of(int64_t{0});
  if (name == "previtem") {
    if (loop.has_previous) return loop.previous;
    return Value::undefined(Missing::kHint, "there is no previous item");
  }
  if (name == "nextitem") {
    if (peek(loop)) return loop.ahead;
    return Value::undefined(Missing::kHint, "there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    raise(fmt::format("'loop.{}' can only be called", name));
  }
  return Value::undefined(Missing::kAttribute, name, Kind::kLoop);
}

Value Machine::call_loop_method(LoopState& loop, std::string_view name, const Args& args) {
  if ((name == "cycle" || name == "changed") && !args.named.empty()) {
    raise(fmt::format("loop.{}() takes no keyword arguments", name));
  }
  if (name == "cycle") {
    if (args.positional.empty()) raise("no items for cycling given");
    return args.positional[static_cast<size_t>(loop.index0) % args.positional.size()];
  }
  if (name == "changed") {
    const Value now = heap_.list(args.positional, Kind::kTuple);
    const bool same = loop.has_changed && equals(heap_, now, loop.changed);
    loop.has_changed = true;
    loop.changed = now;
    return Value::of(!same);
  }
  return call(loop_attribute(loop, name), args);
}

}  // namespace nanoflow::jinja
