#include "ops/busy_times.h"

#include <algorithm>
#include <utility>

namespace nanoflow {
namespace {

/// Time during which at least one op ran, and two or more did.
std::pair<int64_t, int64_t> union_and_overlap(const std::vector<OpRecord>& ops) {
  std::vector<std::pair<int64_t, int>> changes;  // at a time, of the number of running ops
  for (const OpRecord& op : ops) {
    changes.emplace_back(op.begin_ns, 1);
    changes.emplace_back(op.end_ns, -1);
  }
  std::sort(changes.begin(), changes.end());
  int64_t any = 0, overlap = 0, since = 0;
  int running = 0;
  for (const auto& [at, change] : changes) {
    if (running > 0) any += at - since;
    if (running > 1) overlap += at - since;
    running += change;
    since = at;
  }
  return {any, overlap};
}

}  // namespace

TimeKind time_kind(const OpArgs& args) {
  if (const auto* attention = std::get_if<PagedAttentionArgs>(&args))
    return attention->phase == Phase::kDecode ? TimeKind::kAttentionDecode
                                              : TimeKind::kAttentionPrefill;
  switch (op_resource(args)) {
    case Resource::kCompute: return TimeKind::kGemm;
    case Resource::kNetwork: return TimeKind::kNetwork;
    default: return TimeKind::kOther;
  }
}

std::string_view time_kind_name(TimeKind kind) {
  constexpr std::array<std::string_view, kNumTimeKinds> kNames = {
      "gemm", "attention_decode", "attention_prefill", "network", "other"};
  return kNames[static_cast<size_t>(kind)];
}

BusySnapshot BusySnapshot::since(const BusySnapshot& earlier) const {
  BusySnapshot change = *this;
  change.steps -= earlier.steps;
  change.step_ns -= earlier.step_ns;
  change.idle_ns -= earlier.idle_ns;
  for (const auto& [rows, bucket] : earlier.buckets) {
    Bucket& b = change.buckets[rows];
    b.timed -= bucket.timed;
    b.timed_ns -= bucket.timed_ns;
    b.plain -= bucket.plain;
    b.plain_ns -= bucket.plain_ns;
  }
  change.timed_steps -= earlier.timed_steps;
  change.timed_ns -= earlier.timed_ns;
  for (size_t k = 0; k < kNumTimeKinds; ++k) {
    change.kinds[k].ns -= earlier.kinds[k].ns;
    change.kinds[k].flops -= earlier.kinds[k].flops;
    change.kinds[k].bytes -= earlier.kinds[k].bytes;
  }
  for (const auto& [op, ns] : earlier.op_ns) change.op_ns[op] -= ns;
  change.any_ns -= earlier.any_ns;
  change.overlap_ns -= earlier.overlap_ns;
  return change;
}

double BusySnapshot::idle_share() const {
  const int64_t all_ns = idle_ns + step_ns;
  return all_ns > 0 ? static_cast<double>(idle_ns) / static_cast<double>(all_ns) : 0;
}

std::optional<double> BusySnapshot::timing_cost() const {
  double timed = 0, plain = 0;  // of as many steps
  for (const auto& [rows, b] : buckets) {
    if (std::min(b.timed, b.plain) < kComparable) continue;
    timed += static_cast<double>(b.timed_ns);
    plain += static_cast<double>(b.plain_ns) / static_cast<double>(b.plain) *
             static_cast<double>(b.timed);
  }
  if (plain <= 0) return std::nullopt;
  return timed / plain - 1;
}

void BusyTimes::add(const StepRecord& record) {
  const auto [any, overlap] = union_and_overlap(record.ops);
  const std::lock_guard lock(mutex_);
  ++totals_.steps;
  totals_.step_ns += record.ns();
  totals_.idle_ns += record.idle_ns;
  BusySnapshot::Bucket& bucket = totals_.buckets[record.bucket];
  if (record.ops.empty()) {
    ++bucket.plain;
    bucket.plain_ns += record.ns();
    return;
  }
  ++bucket.timed;
  bucket.timed_ns += record.ns();
  ++totals_.timed_steps;
  totals_.timed_ns += record.ns();
  for (const OpRecord& op : record.ops) {
    BusySnapshot::Kind& kind = totals_.kinds[static_cast<size_t>(op.kind)];
    kind.ns += op.ns();
    kind.flops += op.flops;
    kind.bytes += op.bytes;
    totals_.op_ns[op.name] += op.ns();
  }
  totals_.any_ns += any;
  totals_.overlap_ns += overlap;
}

BusySnapshot BusyTimes::snapshot() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

}  // namespace nanoflow
