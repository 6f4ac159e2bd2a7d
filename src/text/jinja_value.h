// Values of the template language, with Python's semantics. All of them live in the Heap of one
// render, which also meters time and memory; nothing here knows templates or chats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/text_span.h"

namespace nanoflow::jinja {

/// Why a template stopped. Thrown inside the interpreter only; chat_template.cc turns it into
/// FormatError (compiling) or Result (rendering), so none leaves the library's public interface.
class TemplateError : public std::runtime_error {
 public:
  enum Kind : uint8_t {
    kSyntax,  ///< malformed or unsupported template
    kRun,     ///< an operation failed while rendering
    kRaised,  ///< the template called raise_exception
    kLimit,   ///< the template exceeded its step, memory, depth or output limit
  };
  TemplateError(Kind kind, const std::string& message, int line = 0)
      : std::runtime_error(message), kind_(kind), line_(line) {}
  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] int line() const { return line_; }
  /// Sets the line where it is not known yet (the innermost statement or expression wins).
  void set_line(int line) {
    if (line_ == 0) line_ = line;
  }

 private:
  Kind kind_;
  int line_;
};

/// Throws TemplateError of kind kRun.
[[noreturn]] void raise(const std::string& message);

struct Value;
struct Entry;
struct Iterator;
struct Namespace;
struct Method;
struct LoopState;
struct MacroObject;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kDouble,
  kString,
  kList,
  kTuple,
  kRange,     // what range() gives: a sequence that does not print as a list
  kView,      // dict.keys(), .values(), .items(): has a length but no index
  kDict,      // ordered
  kIterator,  // a generator: read once, no length
  kNamespace,
  kLoop,
  kMethod,    // bound, for example 'abc'.upper
  kFunction,  // a global such as range
  kMacro,
};

/// What an undefined value stands for, so that using it can say what was missing.
enum class Missing : uint8_t { kVariable, kAttribute, kElement, kUnsafe, kHint };

/// One value; trivially copyable, pointing into the Heap, the compiled template or the input Json.
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): its union has an initializer
struct Value {
  Kind kind = Kind::kUndefined;
  bool markup = false;               // strings: result of |safe or |escape
  Missing missing = Missing::kHint;  // undefined only
  Kind owner = Kind::kUndefined;     // undefined only: kind of the object that lacks the name
  size_t size = 0;                   // bytes of a string; items of a sequence, view or dict
  union {
    bool boolean;
    int64_t integer;
    double real;
    const char* chars = nullptr;  // strings (valid UTF-8); undefined: the missing name
    const Value* items;
    const Entry* entries;
    Iterator* iterator;
    Namespace* space;
    const Method* method;
    LoopState* loop;
    const MacroObject* macro;
    int function;
  };

  static Value none() { return of(Kind::kNone); }
  static Value of(Kind kind) {
    Value v;
    v.kind = kind;
    return v;
  }
  static Value of(bool b) {
    Value v = of(Kind::kBool);
    v.boolean = b;
    return v;
  }
  static Value of(int64_t i) {
    Value v = of(Kind::kInt);
    v.integer = i;
    return v;
  }
  static Value of(double d) {
    Value v = of(Kind::kDouble);
    v.real = d;
    return v;
  }
  /// Does not copy: `text` must outlive the render.
  static Value of(std::string_view text) {
    Value v = of(Kind::kString);
    v.chars = text.data();
    v.size = text.size();
    return v;
  }
  static Value sequence(Kind kind, const Value* items, size_t size) {
    Value v = of(kind);
    v.items = items;
    v.size = size;
    return v;
  }
  static Value dict(const Entry* entries, size_t size) {
    Value v = of(Kind::kDict);
    v.entries = entries;
    v.size = size;
    return v;
  }
  static Value undefined(Missing missing, std::string_view name, Kind owner = Kind::kUndefined) {
    Value v;
    v.missing = missing;
    v.owner = owner;
    v.chars = name.data();
    v.size = name.size();
    return v;
  }

  [[nodiscard]] bool is_undefined() const { return kind == Kind::kUndefined; }
  [[nodiscard]] bool is_none() const { return kind == Kind::kNone; }
  [[nodiscard]] bool is_string() const { return kind == Kind::kString; }
  [[nodiscard]] bool is_dict() const { return kind == Kind::kDict; }
  /// bool counts as an integer, as in Python.
  [[nodiscard]] bool is_integral() const { return kind == Kind::kInt || kind == Kind::kBool; }
  [[nodiscard]] bool is_number() const { return is_integral() || kind == Kind::kDouble; }
  /// Has items and an index.
  [[nodiscard]] bool is_sequence() const {
    return kind == Kind::kList || kind == Kind::kTuple || kind == Kind::kRange;
  }
  [[nodiscard]] std::string_view text() const { return {chars, size}; }
  [[nodiscard]] int64_t as_int() const { return kind == Kind::kBool ? boolean : integer; }
  [[nodiscard]] double as_double() const {
    return kind == Kind::kDouble ? real : static_cast<double>(as_int());
  }
};

struct Entry {
  Value key;
  Value value;
};

/// The rest of a generator.
struct Iterator {
  const Value* items;
  size_t size;
  size_t next;
};

/// namespace(...): the only mutable object of the language.
struct Namespace {
  std::vector<Entry> attributes;
};

struct Method {
  Value receiver;
  std::string_view name;
};

/// What one render may use.
struct Limits {
  int64_t steps = 50'000'000;      ///< about a second of work
  size_t heap_bytes = 256u << 20;  ///< everything the render allocates, never freed before its end
  size_t output_bytes = 64u << 20;
  int depth = 600;        ///< nesting of evaluation; 8 MiB stacks hold it with sanitizers
  int value_depth = 200;  ///< nesting of lists and dicts that are printed or compared
};

/// Memory and meter of one render. Everything allocated lives until the Heap dies. Not thread-safe.
///
/// The heap also knows where text came from: a byte is *literal* when the request wrote it, and
/// this is a property of its address. Slices keep it by being views; what copies text says so
/// (string(), inherit(), Text). A template cannot see it, so it cannot lose it either.
class Heap {
 public:
  explicit Heap(const Limits& limits) : limits_(limits), steps_left_(limits.steps) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  [[nodiscard]] const Limits& limits() const { return limits_; }
  /// Takes `steps` from the budget; throws kLimit when it is spent.
  void charge(size_t steps) {
    steps_left_ -= static_cast<int64_t>(steps);
    if (steps_left_ < 0) out_of_steps();
  }
  /// Throws kLimit unless `bytes` more may be allocated.
  void check_room(size_t bytes) const;
  /// Uninitialised storage for `count` objects; for trivially destructible types only.
  template <typename T>
  T* allocate(size_t count) {
    check_room(count > SIZE_MAX / sizeof(T) ? SIZE_MAX : count * sizeof(T));
    return static_cast<T*>(take(count * sizeof(T)));
  }
  /// A copy of `text` in the heap, as a string value. Literal bytes stay literal.
  Value string(std::string_view text);
  /// A copy of `text`, which was made from `source`: all of it is literal if any of `source` is.
  Value string_from(std::string_view text, std::string_view source);
  /// Makes `text` literal. It must live as long as the heap.
  void mark_literal(std::string_view text);
  /// `to` (in the heap, not marked yet) is a copy of `from`: marks the same bytes literal.
  void inherit(std::string_view from, const char* to);
  [[nodiscard]] bool any_literal(std::string_view text) const;
  /// Appends the literal bytes of `text` to `out`, as offsets into `text` plus `shift`.
  void add_literal_spans(std::string_view text, size_t shift, std::vector<TextSpan>& out) const;
  /// Counts memory outside of the heap that grows with the request; throws kLimit when it is too
  /// much.
  void count_bytes(size_t bytes) {
    check_room(bytes);
    used_ += bytes;
  }
  Value list(const std::vector<Value>& items, Kind kind = Kind::kList);
  Value iterator(const std::vector<Value>& items);
  /// Later duplicates replace the value and keep the place of the first, as in Python.
  Value dict(const std::vector<Entry>& entries);
  Value new_namespace(const Value& dict);
  Value method(const Value& receiver, std::string_view name);

 private:
  [[noreturn]] void out_of_steps() const;
  void* take(size_t bytes);

  Limits limits_;
  int64_t steps_left_;
  size_t used_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  std::byte* free_ = nullptr;
  size_t free_bytes_ = 0;
  std::map<const char*, const char*, std::less<>> literal_;  // begin to end; disjoint
  std::vector<std::unique_ptr<Namespace>> spaces_;
};

/// A string under construction that cannot outgrow the heap's limit.
class Text {
 public:
  explicit Text(Heap& heap) : heap_(heap) {}
  /// Literal bytes stay literal.
  void add(std::string_view text) {
    append(text);
    heap_.add_literal_spans(text, text_.size() - text.size(), literal_);
  }
  /// Adds `text`, which was made from `source`: all of it is literal if any of `source` is.
  void add_from(std::string_view text, std::string_view source) {
    append(text);
    if (text.empty() || !heap_.any_literal(source)) return;
    append_span(literal_, {text_.size() - text.size(), text_.size()});
  }
  void fill(size_t count, char c) {
    heap_.check_room(count > SIZE_MAX / 2 ? count : text_.size() + count);
    heap_.charge(1 + count / 64);
    text_.append(count, c);
  }
  /// The text as a value in the heap.
  [[nodiscard]] Value finish() const;

 private:
  void append(std::string_view text) {
    heap_.check_room(text_.size() + text.size() + literal_.size() * sizeof(TextSpan));
    heap_.charge(1 + text.size() / 64);
    text_ += text;
  }

  Heap& heap_;
  std::string text_;
  std::vector<TextSpan> literal_;
};

/// Views strings of `json`, which must outlive the heap.
Value from_json(Heap& heap, const Json& json);

/// Python's name of the type, for messages: "str", "int", "NoneType", ...
std::string_view type_name(const Value& v);
/// "'x' is undefined", "'dict object' has no attribute 'x'", ...
std::string undefined_message(const Value& v);
/// raise(undefined_message(v)) when v is undefined.
void require_defined(const Value& v);

bool truthy(const Value& v);
bool equals(Heap& heap, const Value& a, const Value& b, int depth = 0);
/// a < b, with Python's TypeError when the two have no order.
bool less(Heap& heap, const Value& a, const Value& b, int depth = 0);
/// The value of `key`, or nullptr. Throws when `key` is not hashable.
const Value* find(Heap& heap, const Value& dict, const Value& key);
/// `item in container`.
bool contains(Heap& heap, const Value& container, const Value& item);

/// str(v) and repr(v), appended.
void append_str(Text& out, Heap& heap, const Value& v);
void append_repr(Text& out, Heap& heap, const Value& v, int depth = 0);
/// str(v): v itself when it is a string.
Value to_str(Heap& heap, const Value& v);
/// Python's repr of a float: shortest digits, "1.0", "1e-05", "inf".
std::string double_repr(double d);

/// All items of an iterable, in order (characters of a string, keys of a dict); an iterator is read
/// to its end. Throws for what cannot be iterated.
std::vector<Value> iterate(Heap& heap, const Value& v);
/// len(v); throws where Python has none.
int64_t length(const Value& v);

}  // namespace nanoflow::jinja
