#include "ops/busy_times.h"

namespace nanoflow {

BusySnapshot BusySnapshot::since(const BusySnapshot& earlier) const {
  BusySnapshot change = *this;
  for (size_t r = 0; r < resource_ns.size(); ++r) change.resource_ns[r] -= earlier.resource_ns[r];
  for (const auto& [op, ns] : earlier.op_ns) change.op_ns[op] -= ns;
  change.any_ns -= earlier.any_ns;
  change.overlap_ns -= earlier.overlap_ns;
  return change;
}

int64_t BusyTimes::begin() {
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_.now_ns();
  advance(now_ns);
  ++running_;
  return now_ns;
}

void BusyTimes::end(const OpArgs& args, int64_t begin_ns) {
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_.now_ns();
  advance(now_ns);
  --running_;
  totals_.resource_ns[static_cast<size_t>(op_resource(args))] += now_ns - begin_ns;
  totals_.op_ns[std::string(op_kind_name(args))] += now_ns - begin_ns;
}

BusySnapshot BusyTimes::snapshot() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

void BusyTimes::advance(int64_t now_ns) {
  if (running_ > 0) totals_.any_ns += now_ns - changed_ns_;
  if (running_ > 1) totals_.overlap_ns += now_ns - changed_ns_;
  changed_ns_ = now_ns;
}

}  // namespace nanoflow
