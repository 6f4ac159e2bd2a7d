// TransferMeter: progress of a download.
#include "formats/hub_transfer.h"

#include <utility>

namespace nanoflow {
namespace {

constexpr int64_t kTellEveryNs = 100'000'000;
constexpr int64_t kWindowNs = 5'000'000'000;  // the rate is that of the last five seconds

}  // namespace

TransferMeter::TransferMeter(HubProgress start, std::function<void(const HubProgress&)> tell)
    : tell_(std::move(tell)), done_(start.bytes_done), told_ns_(clock_.now_ns()), progress_(start) {
  samples_.push_back({.time_ns = clock_.now_ns(), .bytes = 0});
}

void TransferMeter::received(int64_t bytes) {
  received_ += bytes;
  done_ += bytes;
  report(false);
}

void TransferMeter::adjust(int64_t bytes) {
  done_ += bytes;
}

void TransferMeter::file_done() {
  {
    const std::lock_guard lock(mutex_);
    ++progress_.files_done;
  }
  report(true);
}

HubProgress TransferMeter::now() {
  const std::lock_guard lock(mutex_);
  progress_.bytes_done = done_;
  return progress_;
}

void TransferMeter::report(bool force) {
  if (!tell_) return;
  const int64_t now_ns = clock_.now_ns();
  if (!force && now_ns - told_ns_ < kTellEveryNs) return;
  const std::lock_guard lock(mutex_);
  told_ns_ = now_ns;
  progress_.bytes_done = done_;
  samples_.push_back({.time_ns = now_ns, .bytes = received_});
  while (samples_.size() > 2 && now_ns - samples_.front().time_ns > kWindowNs) samples_.pop_front();
  const Sample& oldest = samples_.front();
  const double seconds = static_cast<double>(now_ns - oldest.time_ns) * 1e-9;
  if (seconds > 0)
    progress_.bytes_per_s = static_cast<double>(samples_.back().bytes - oldest.bytes) / seconds;
  tell_(progress_);
}

}  // namespace nanoflow
