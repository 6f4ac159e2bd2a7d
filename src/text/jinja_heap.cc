// Memory and meter of one render.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <unordered_map>

#include <fmt/format.h>

#include "text/jinja_value.h"

namespace nanoflow::jinja {

void Heap::out_of_steps() const {
  throw TemplateError(TemplateError::kLimit,
                      fmt::format("the chat template ran for more than {} steps", limits_.steps));
}

void Heap::check_room(size_t bytes) const {
  if (bytes > limits_.heap_bytes - used_) {
    throw TemplateError(
        TemplateError::kLimit,
        fmt::format("the chat template needs more than {} MiB", limits_.heap_bytes >> 20));
  }
}

void* Heap::take(size_t bytes) {
  constexpr size_t kAlign = alignof(std::max_align_t);
  constexpr size_t kBlock = 64u << 10;
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  check_room(bytes);
  used_ += bytes;
  charge(1 + bytes / 256);
  if (bytes > free_bytes_) {
    const size_t block = bytes > kBlock / 4 ? bytes : kBlock;
    blocks_.push_back(std::make_unique_for_overwrite<std::byte[]>(block));
    if (block == bytes && bytes > kBlock / 4) return blocks_.back().get();
    free_ = blocks_.back().get();
    free_bytes_ = block;
  }
  void* result = free_;
  free_ += bytes;
  free_bytes_ -= bytes;
  return result;
}

Value Heap::string(std::string_view text) {
  if (text.empty()) return Value::of(std::string_view(""));
  char* copy = allocate<char>(text.size());
  std::memcpy(copy, text.data(), text.size());
  inherit(text, copy);
  return Value::of(std::string_view(copy, text.size()));
}

Value Heap::string_from(std::string_view text, std::string_view source) {
  const Value copy = string(text);
  if (any_literal(source)) mark_literal(copy.text());
  return copy;
}

void Heap::mark_literal(std::string_view text) {
  if (text.empty()) return;
  constexpr size_t kNodeBytes = 64;  // of the map, as glibc allocates it
  charge(4);
  const char* begin = text.data();
  const char* end = begin + text.size();
  auto at = literal_.lower_bound(begin);
  if (at != literal_.begin() && std::prev(at)->second >= begin) --at;
  const size_t before = literal_.size();
  // Swallows what overlaps or touches.
  while (at != literal_.end() && at->first <= end) {
    begin = std::min(begin, at->first);
    end = std::max(end, at->second);
    at = literal_.erase(at);
  }
  literal_.emplace_hint(at, begin, end);
  if (literal_.size() > before) count_bytes(kNodeBytes);
}

void Heap::inherit(std::string_view from, const char* to) {
  if (literal_.empty()) return;
  std::vector<TextSpan> spans;
  add_literal_spans(from, 0, spans);
  for (const TextSpan& span : spans) mark_literal({to + span.begin, span.end - span.begin});
}

bool Heap::any_literal(std::string_view text) const {
  if (literal_.empty() || text.empty()) return false;
  const auto after = literal_.lower_bound(text.data() + text.size());
  return after != literal_.begin() && std::prev(after)->second > text.data();
}

void Heap::add_literal_spans(std::string_view text, size_t shift,
                             std::vector<TextSpan>& out) const {
  if (literal_.empty() || text.empty()) return;
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  auto at = literal_.upper_bound(begin);
  if (at != literal_.begin() && std::prev(at)->second > begin) --at;
  for (; at != literal_.end() && at->first < end; ++at) {
    const size_t first = at->first <= begin ? 0 : static_cast<size_t>(at->first - begin);
    const size_t last = at->second >= end ? text.size() : static_cast<size_t>(at->second - begin);
    append_span(out, {shift + first, shift + last});
  }
}

Value Text::finish() const {
  const Value v = heap_.string(text_);
  for (const TextSpan& span : literal_) {
    heap_.mark_literal(v.text().substr(span.begin, span.end - span.begin));
  }
  return v;
}

Value Heap::list(const std::vector<Value>& items, Kind kind) {
  Value* copy = allocate<Value>(items.size());
  std::uninitialized_copy(items.begin(), items.end(), copy);
  return Value::sequence(kind, copy, items.size());
}

Value Heap::iterator(const std::vector<Value>& items) {
  const Value all = list(items);
  auto* state = allocate<Iterator>(1);
  *state = Iterator{all.items, all.size, 0};
  Value v = Value::of(Kind::kIterator);
  v.iterator = state;
  return v;
}

Value Heap::dict(const std::vector<Entry>& entries) {
  auto* copy = allocate<Entry>(entries.size());
  size_t size = 0;
  // Long dicts come from requests; comparing every pair of keys would be quadratic.
  std::unordered_map<std::string_view, size_t> strings;
  const bool hashed = entries.size() > 16;
  for (const Entry& entry : entries) {
    const Value* old = nullptr;
    if (hashed && entry.key.is_string()) {
      const auto [it, fresh] = strings.try_emplace(entry.key.text(), size);
      if (!fresh) old = &copy[it->second].value;
    } else {
      old = find(*this, Value::dict(copy, size), entry.key);
    }
    if (old != nullptr) {
      *const_cast<Value*>(old) = entry.value;  // `copy` is ours and not shared yet
    } else {
      std::construct_at(copy + size++, entry);
    }
  }
  return Value::dict(copy, size);
}

Value Heap::new_namespace(const Value& dict) {
  check_room(sizeof(Namespace) + dict.size * sizeof(Entry));
  used_ += sizeof(Namespace) + dict.size * sizeof(Entry);
  spaces_.push_back(std::make_unique<Namespace>());
  spaces_.back()->attributes.assign(dict.entries, dict.entries + dict.size);
  Value v = Value::of(Kind::kNamespace);
  v.space = spaces_.back().get();
  return v;
}

Value Heap::method(const Value& receiver, std::string_view name) {
  auto* bound = allocate<Method>(1);
  std::construct_at(bound, Method{receiver, name});
  Value v = Value::of(Kind::kMethod);
  v.method = bound;
  return v;
}

}  // namespace nanoflow::jinja
