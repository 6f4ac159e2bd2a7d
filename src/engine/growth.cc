#include "engine/growth.h"

#include <algorithm>
#include <utility>

namespace nanoflow {

namespace {

// At rest, when one in kFinishesPerPreemption requests is preempted, the two steps cancel out. In
// simulations of log-normal, constant, bimodal and suddenly changing lengths, quicker steps or a
// larger maximum cost more steps (an emptier cache) than the rows they saved from recomputation.
constexpr double kStepUp = 0.002;
constexpr double kFinishesPerPreemption = 50;
constexpr double kLeastReserve = 0.01;
constexpr double kMostReserve = 0.10;

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

void GrowthReserve::on_preemption() {
  share_ = std::min(kMostReserve, share_ + kStepUp);
}

void GrowthReserve::on_finish() {
  share_ = std::max(kLeastReserve, share_ - kStepUp / kFinishesPerPreemption);
}

}  // namespace nanoflow
