// Filters on sequences and dicts.
#include <algorithm>

#include <fmt/format.h>

#include "text/jinja_filters.h"
#include "text/jinja_ops.h"
#include "text/jinja_string.h"

namespace nanoflow::jinja {

namespace {

Value length_filter(Heap&, const Value& in, const Args& raw) {
  const Bound args("length", raw, {});
  return Value::of(length(in));
}

Value list_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("list", raw, {});
  return heap.list(iterate(heap, in));
}

Value first_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("first", raw, {});
  if (in.kind == Kind::kIterator) {
    Iterator& it = *in.iterator;
    if (it.next < it.size) return it.items[it.next++];
  } else if (in.is_string()) {
    if (in.size > 0) return Value::of(in.text().substr(0, char_bytes(in.text(), 0)));
  } else {
    const std::vector<Value> items = iterate(heap, in);
    if (!items.empty()) return items.front();
  }
  return Value::undefined(Missing::kHint, "No first item, sequence was empty.");
}

Value last_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("last", raw, {});
  if (in.kind == Kind::kIterator) raise("'generator' object is not reversible");
  const std::vector<Value> items = iterate(heap, in);
  if (!items.empty()) return items.back();
  return Value::undefined(Missing::kHint, "No last item, sequence was empty.");
}

Value join_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("join", raw, {"d", "attribute"});
  const Value separator = to_str(heap, args.get(0, Value::of(std::string_view(""))));
  Text out(heap);
  bool first = true;
  for (Value item : iterate(heap, in)) {
    if (!args.get(1).is_none()) item = get_path(heap, item, args.get(1));
    if (!first) out.add(separator.text());
    append_str(out, heap, item);
    first = false;
  }
  return out.finish();
}

Value items_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("items", raw, {});
  if (in.is_undefined()) return heap.iterator({});
  if (!in.is_dict()) raise("Can only get item pairs from a mapping.");
  return heap.iterator(iterate(heap, call_method(heap, Method{in, "items"}, {})));
}

Value fold_case(Heap& heap, const Value& v, bool case_sensitive) {
  if (case_sensitive || !v.is_string()) return v;
  heap.charge(v.size / 4);
  return heap.string(lower(v.text()));
}

// Sorts pairs of (key, item) by key and returns the items.
Value sort_by_key(Heap& heap, std::vector<Entry>& keyed, bool reverse) {
  heap.charge(keyed.size());
  // Python's reverse keeps equal elements in their first order, so the comparison is turned around.
  // stable_sort stays inside its range even where the order is inconsistent (NaN).
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Entry& a, const Entry& b) {
    return reverse ? less(heap, b.key, a.key) : less(heap, a.key, b.key);
  });
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (const Entry& e : keyed) items.push_back(e.value);
  return heap.list(items);
}

Value sort_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("sort", raw, {"reverse", "case_sensitive", "attribute"});
  const Value attribute = args.get(2);
  const bool exact = args.flag(1);
  std::vector<Entry> keyed;
  for (const Value& item : iterate(heap, in)) {
    if (attribute.is_none()) {
      keyed.push_back({fold_case(heap, item, exact), item});
      continue;
    }
    std::vector<Value> keys;
    const std::string_view comma = ",";
    const std::vector<std::string_view> paths = attribute.is_string()
                                                    ? split(attribute.text(), &comma, -1)
                                                    : std::vector<std::string_view>{};
    keys.reserve(paths.size());
    for (const std::string_view path : paths) {
      keys.push_back(fold_case(heap, get_path(heap, item, Value::of(path)), exact));
    }
    if (paths.empty()) keys.push_back(fold_case(heap, get_item(heap, item, attribute), exact));
    keyed.push_back({heap.list(keys), item});
  }
  return sort_by_key(heap, keyed, args.flag(0));
}

Value dictsort_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("dictsort", raw, {"case_sensitive", "by", "reverse"});
  require_defined(in);
  if (!in.is_dict()) raise(fmt::format("'{} object' has no attribute 'items'", type_name(in)));
  const std::string_view by = args.has(1) ? args.text(1) : "key";
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  std::vector<Entry> keyed;
  for (const Value& pair : iterate(heap, call_method(heap, Method{in, "items"}, {}))) {
    keyed.push_back({fold_case(heap, pair.items[by == "key" ? 0 : 1], args.flag(0)), pair});
  }
  return sort_by_key(heap, keyed, args.flag(2));
}

Value unique_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("unique", raw, {"case_sensitive", "attribute"});
  std::vector<Value> seen;
  std::vector<Value> items;
  for (const Value& item : iterate(heap, in)) {
    Value key = args.get(1).is_none() ? item : get_path(heap, item, args.get(1));
    key = fold_case(heap, key, args.flag(0));
    if (key.kind == Kind::kList || key.kind == Kind::kDict) {
      raise(fmt::format("unhashable type: '{}'", type_name(key)));
    }
    const auto same = [&](const Value& other) { return equals(heap, other, key); };
    if (std::any_of(seen.begin(), seen.end(), same)) continue;
    seen.push_back(key);
    items.push_back(item);
  }
  return heap.iterator(items);
}

template <bool kMax>
Value extreme_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args(kMax ? "max" : "min", raw, {"case_sensitive", "attribute"});
  const std::vector<Value> items = iterate(heap, in);
  if (items.empty()) {
    return Value::undefined(Missing::kHint, "No aggregated item, sequence was empty.");
  }
  const auto key_of = [&](const Value& item) {
    const Value key = args.get(1).is_none() ? item : get_path(heap, item, args.get(1));
    return fold_case(heap, key, args.flag(0));
  };
  Value best = items.front();
  Value best_key = key_of(best);
  for (size_t i = 1; i < items.size(); ++i) {
    const Value key = key_of(items[i]);
    if (kMax ? less(heap, best_key, key) : less(heap, key, best_key)) {
      best = items[i];
      best_key = key;
    }
  }
  return best;
}

Value sum_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("sum", raw, {"attribute", "start"});
  Value total = args.get(1, Value::of(int64_t{0}));
  if (total.is_string()) raise("sum() can't sum strings [use ''.join(seq) instead]");
  for (Value item : iterate(heap, in)) {
    if (!args.get(0).is_none()) item = get_path(heap, item, args.get(0));
    total = arithmetic(heap, Op::kAdd, total, item);
  }
  return total;
}

Value reverse_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("reverse", raw, {});
  if (in.is_string()) {
    return get_slice(heap, in, Value::none(), Value::none(), Value::of(int64_t{-1}));
  }
  std::vector<Value> items = iterate(heap, in);
  std::reverse(items.begin(), items.end());
  return in.kind == Kind::kIterator ? heap.list(items) : heap.iterator(items);
}

Value batch_filter(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("batch", raw, {"linecount", "fill_with"}, 1);
  const int64_t count = args.integer(0, 1);
  std::vector<Value> rows;
  std::vector<Value> row;
  for (const Value& item : iterate(heap, in)) {
    if (static_cast<int64_t>(row.size()) == count) {
      rows.push_back(heap.list(row));
      row.clear();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    const Value fill = args.get(1);
    while (!fill.is_none() && static_cast<int64_t>(row.size()) < count) {
      heap.charge(1);
      heap.check_room(row.size() * sizeof(Value));
      row.push_back(fill);
    }
    rows.push_back(heap.list(row));
  }
  return heap.iterator(rows);
}

Args tail(const Args& args, size_t skip) {
  Args rest = args;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(skip));
  return rest;
}

std::string_view callee_name(const Args& args, size_t i) {
  if (!args.positional[i].is_string()) raise("the name of a filter or test must be a string");
  return args.positional[i].text();
}

Value map_attribute(Heap& heap, const Value& in, const Args& raw) {
  const Bound args("map", raw, {"attribute", "default"});
  std::vector<Value> out;
  for (const Value& item : iterate(heap, in)) {
    const Value v = get_path(heap, item, args.get(0));
    out.push_back(v.is_undefined() && !args.get(1).is_none() ? args.get(1) : v);
  }
  return heap.iterator(out);
}

Value map_filter(Heap& heap, const Value& in, const Args& args) {
  if (!truthy(in)) return heap.iterator({});
  if (args.positional.empty()) {
    if (args.named.empty()) raise("map requires a filter argument");
    return map_attribute(heap, in, args);
  }
  const std::string_view name = callee_name(args, 0);
  const FilterFn filter = find_filter(name);
  if (filter == nullptr) raise(fmt::format("No filter named '{}'.", name));
  const Args rest = tail(args, 1);
  std::vector<Value> out;
  for (const Value& item : iterate(heap, in)) out.push_back(filter(heap, item, rest));
  return heap.iterator(out);
}

// select, reject, selectattr, rejectattr.
template <bool kAttribute, bool kKeep>
Value select_filter(Heap& heap, const Value& in, const Args& args) {
  if (!truthy(in)) return heap.iterator({});
  constexpr size_t kSkip = kAttribute ? 1 : 0;
  if (args.positional.size() < kSkip) raise("Missing parameter for attribute name");
  TestFn test = nullptr;
  if (args.positional.size() > kSkip) {
    const std::string_view name = callee_name(args, kSkip);
    test = find_test(name);
    if (test == nullptr) raise(fmt::format("No test named '{}'.", name));
  }
  const Args rest = tail(args, test != nullptr ? kSkip + 1 : kSkip);
  std::vector<Value> out;
  for (const Value& item : iterate(heap, in)) {
    const Value v = kAttribute ? get_path(heap, item, args.positional[0]) : item;
    if ((test != nullptr ? test(heap, v, rest) : truthy(v)) == kKeep) out.push_back(item);
  }
  return heap.iterator(out);
}

constexpr NamedFilter kFilters[] = {
    {"batch", batch_filter},
    {"count", length_filter},
    {"dictsort", dictsort_filter},
    {"first", first_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"last", last_filter},
    {"length", length_filter},
    {"list", list_filter},
    {"map", map_filter},
    {"max", extreme_filter<true>},
    {"min", extreme_filter<false>},
    {"reject", select_filter<false, false>},
    {"rejectattr", select_filter<true, false>},
    {"reverse", reverse_filter},
    {"select", select_filter<false, true>},
    {"selectattr", select_filter<true, true>},
    {"sort", sort_filter},
    {"sum", sum_filter},
    {"unique", unique_filter},
};

}  // namespace

FilterFn find_sequence_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [&](const NamedFilter& f) { return f.name == name; });
  return at != std::end(kFilters) ? at->filter : nullptr;
}

}  // namespace nanoflow::jinja
