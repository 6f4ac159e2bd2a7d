// GrowthForecast: whether the memory that running sequences will grow into is there, so that
// admission fills the cache without causing preemptions later.
#pragma once

#include <cstdint>
#include <vector>

namespace nanoflow {

/// Every running sequence grows by one token per step and gives everything back at its end. The
/// highest point of the sum is right before some sequence ends (Gong et al. 2025, "Past-Future
/// Scheduler", section 4).
class GrowthForecast {
 public:
  struct Entry {
    int64_t resident = 0;   ///< tokens of cache it takes now, its whole prompt included
    int64_t remaining = 0;  ///< tokens it is expected to grow by
  };

  explicit GrowthForecast(std::vector<Entry> entries = {});
  void add(Entry entry);
  /// Highest number of tokens held at the same time from now on, if `extra` is added.
  [[nodiscard]] int64_t peak_with(Entry extra) const;

 private:
  std::vector<Entry> entries_;  // by falling remaining
};

/// Share of the cache that admission keeps free for forecasts that turn out too low: grows with
/// preemptions, shrinks with finished requests.
class GrowthReserve {
 public:
  void on_preemption();
  void on_finish();
  [[nodiscard]] double share() const { return share_; }

 private:
  double share_ = 0.02;
};

}  // namespace nanoflow
