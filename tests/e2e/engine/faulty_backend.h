// FaultyBackend: another backend that fails on command, as a device does: a launch that is refused,
// an error that shows when a step is waited for, or a step that never ends.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "ops/backend.h"

namespace nanoflow {

/// What happens to the device; shared by a test and the backend, which may outlive it.
struct Faults {
  std::atomic<int64_t> launches_left{INT64_MAX};  ///< ops until one is refused
  std::atomic<int64_t> waits_left{INT64_MAX};     ///< waits for steps until one fails or hangs
  std::atomic<bool> hangs = false;                ///< else it throws
  /// Called instead of both, once, with the backend's device current.
  std::atomic<void (*)()> strike = nullptr;
  std::atomic<bool> is_destroyed = false;
  std::mutex mutex;
  std::condition_variable changed;
  bool is_hanging = false;
  bool is_released = false;

  /// Blocks until release(); some minutes at most, so that no test run hangs.
  void hang() {
    std::unique_lock lock(mutex);
    is_hanging = true;
    changed.notify_all();
    changed.wait_for(lock, std::chrono::minutes(2), [&] { return is_released; });
  }
  void release() {
    const std::lock_guard lock(mutex);
    is_released = true;
    changed.notify_all();
  }
};

class FaultyBackend final : public Backend {
 public:
  FaultyBackend(std::unique_ptr<Backend> backend, std::shared_ptr<Faults> faults)
      : backend_(std::move(backend)), faults_(std::move(faults)) {}
  ~FaultyBackend() override { faults_->is_destroyed = true; }

  [[nodiscard]] DeviceInfo device() const override { return backend_->device(); }
  [[nodiscard]] int max_lanes() const override { return backend_->max_lanes(); }
  Buffer allocate(int64_t bytes) override { return backend_->allocate(bytes); }
  Buffer allocate_pinned(int64_t bytes) override { return backend_->allocate_pinned(bytes); }
  [[nodiscard]] bool supports(const OpArgs& args) const override {
    return backend_->supports(args);
  }
  [[nodiscard]] int64_t workspace_bytes(const OpArgs& args,
                                        const LaunchContext& ctx) const override {
    return backend_->workspace_bytes(args, ctx);
  }
  OwnedWeight prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) override {
    return backend_->prepare_weight(weight, use, experts);
  }
  [[nodiscard]] KvLayout kv_layout(const KvShape& shape) const override {
    return backend_->kv_layout(shape);
  }
  void launch(const OpArgs& args, const LaunchContext& ctx) override {
    if (--faults_->launches_left < 0) throw EnvironmentError("injected: the launch is refused");
    backend_->launch(args, ctx);
  }
  void copy(const TensorView& dst, const TensorView& src, LaneId lane) override {
    backend_->copy(dst, src, lane);
  }
  EventId create_event() override { return backend_->create_event(); }
  void record(LaneId lane, EventId event) override { backend_->record(lane, event); }
  void wait(LaneId lane, EventId event) override { backend_->wait(lane, event); }
  void synchronize_event(EventId event) override {
    if (--faults_->waits_left < 0) {
      if (faults_->strike != nullptr) return strike(event);
      if (!faults_->hangs) throw EnvironmentError("injected: the device is lost");
      faults_->hang();
    }
    backend_->synchronize_event(event);
  }
  StampId create_stamp() override { return backend_->create_stamp(); }
  void stamp(LaneId lane, StampId stamp) override { backend_->stamp(lane, stamp); }
  int64_t elapsed_ns(StampId from, StampId to) override { return backend_->elapsed_ns(from, to); }
  void begin_capture() override { backend_->begin_capture(); }
  GraphId end_capture() override { return backend_->end_capture(); }
  void replay(GraphId graph) override { backend_->replay(graph); }
  void synchronize() override {
    backend_->synchronize();  // a lost device touches no memory any more
    if (faults_->waits_left < 0 && !faults_->hangs) throw EnvironmentError("injected: lost");
  }

 private:
  /// The step that is waited for may be past the fault; the ones behind it are not.
  void strike(EventId event) {
    if (faults_->waits_left == -1) faults_->strike.load()();
    backend_->synchronize_event(event);
  }

  std::unique_ptr<Backend> backend_;
  std::shared_ptr<Faults> faults_;  // also the test's
};

}  // namespace nanoflow
