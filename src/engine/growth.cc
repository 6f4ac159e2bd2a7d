#include "engine/growth.h"

#include <algorithm>
#include <utility>

namespace nanoflow {

namespace {

bool ends_later(const GrowthForecast::Entry& a, const GrowthForecast::Entry& b) {
  return a.remaining > b.remaining;
}

}  // namespace

GrowthForecast::GrowthForecast(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::sort(entries_.begin(), entries_.end(), ends_later);
}

void GrowthForecast::add(Entry entry) {
  entries_.insert(std::upper_bound(entries_.begin(), entries_.end(), entry, ends_later), entry);
}

int64_t GrowthForecast::peak_with(Entry extra) const {
  int64_t resident = 0;
  int64_t alive = 0;
  int64_t peak = 0;
  bool extra_counted = false;
  const auto count = [&](const Entry& entry) {
    resident += entry.resident;
    ++alive;
    peak = std::max(peak, resident + alive * entry.remaining);
  };
  for (const Entry& entry : entries_) {
    if (!extra_counted && ends_later(extra, entry)) {
      count(extra);
      extra_counted = true;
    }
    count(entry);
  }
  if (!extra_counted) count(extra);
  return peak;
}

}  // namespace nanoflow
