// BusyTimes: where a device's time goes, by op and resource, and how much of it overlaps.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "ops/op_args.h"

namespace nanoflow {

/// Totals since the start, in nanoseconds. A lane that runs an op is busy.
struct BusySnapshot {
  std::array<int64_t, 3> resource_ns{};  ///< by Resource, summed over lanes
  std::map<std::string, int64_t> op_ns;  ///< by op_kind_name, summed over lanes
  int64_t any_ns = 0;                    ///< at least one lane busy
  int64_t overlap_ns = 0;                ///< two lanes or more busy

  /// What happened after `earlier`.
  [[nodiscard]] BusySnapshot since(const BusySnapshot& earlier) const;
  [[nodiscard]] int64_t total_ns() const {
    return resource_ns[0] + resource_ns[1] + resource_ns[2];
  }
};

/// Collects. Thread-safe; one lock per op and side, which costs well under a microsecond.
class BusyTimes {
 public:
  /// `clock` must outlive this.
  explicit BusyTimes(const Clock& clock) : clock_(clock) {}

  /// A lane begins an op. Returns the time for end().
  int64_t begin();
  void end(const OpArgs& args, int64_t begin_ns);
  [[nodiscard]] BusySnapshot snapshot() const;

 private:
  void advance(int64_t now_ns);

  const Clock& clock_;
  mutable std::mutex mutex_;
  BusySnapshot totals_;
  int running_ = 0;
  int64_t changed_ns_ = 0;  // when running_ last changed
};

}  // namespace nanoflow
