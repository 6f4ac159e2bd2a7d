// Progress of long work: one line redrawn on a terminal, plain lines now and then elsewhere.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string>

#include "base/clock.h"

namespace nanoflow {

/// A progress bar. Thread-safe. Writes to `out` only.
///   Serving  [########............]  42 %  42/100  3.1/s  ETA 00:19
class ProgressBar {
 public:
  enum class Unit : uint8_t { kCount, kBytes };

  /// `total` 0: unknown, only the count is shown. `clock` must outlive the bar.
  ProgressBar(std::string label, int64_t total, Unit unit, std::FILE* out,
              const Clock& clock = steady_clock());
  /// finish().
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Work done so far; redraws at most ten times a second (a line every ten seconds elsewhere).
  void set(int64_t done);
  void set_total(int64_t total);
  /// Runs `print` while the bar is off the screen, so that its lines do not mix with it.
  void print_above(const std::function<void()>& print);
  /// Draws the last state and ends the line. Idempotent.
  void finish();

  /// The line as it would be drawn, `columns` wide at most.
  [[nodiscard]] std::string line(int columns) const;

 private:
  static const Clock& steady_clock();
  void draw(bool force);
  void clear();
  [[nodiscard]] std::string render(int columns) const;

  const std::string label_;
  int64_t total_;
  const Unit unit_;
  std::FILE* const out_;
  const Clock& clock_;
  const bool terminal_;
  const int64_t start_ns_;
  mutable std::mutex mutex_;
  int64_t done_ = 0;
  int64_t begin_ =
      -1;  // first value that was set: work of an earlier run does not count for the rate
  int64_t drawn_ns_ = 0;
  bool on_screen_ = false;
  bool finished_ = false;
};

/// "01:23", "1:02:03".
std::string format_duration(double seconds);

}  // namespace nanoflow
