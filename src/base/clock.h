// Time as an argument: production passes SteadyClock, tests pass ManualClock.
#pragma once

#include <chrono>
#include <cstdint>

namespace nanoflow {

/// Monotonic time source. now_ns() is thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  /// Nanoseconds since an arbitrary fixed point.
  [[nodiscard]] virtual int64_t now_ns() const = 0;
  [[nodiscard]] double now_s() const { return static_cast<double>(now_ns()) * 1e-9; }
};

class SteadyClock final : public Clock {
 public:
  [[nodiscard]] int64_t now_ns() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

/// A clock that moves only when told to; for tests, single-threaded.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] int64_t now_ns() const override { return now_ns_; }
  void advance_ns(int64_t delta) { now_ns_ += delta; }

 private:
  int64_t now_ns_ = 0;
};

}  // namespace nanoflow
