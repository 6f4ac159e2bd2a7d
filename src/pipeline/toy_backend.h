// A backend for toy graphs. Lanes are threads that start together and meet nowhere but at the waits
// of the plan, so that a missing wait is a race: ThreadSanitizer sees it, and results show it. For
// tests only.
#pragma once

#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "ops/backend.h"
#include "pipeline/toy_graph.h"

namespace nanoflow::toy {

class ThreadedBackend final : public Backend {
 public:
  explicit ThreadedBackend(int num_lanes = 4) : lanes_(static_cast<size_t>(num_lanes)) {}

  bool supported = true;
  bool drop_waits = false;  ///< to see that a race is one
  uint64_t jitter = 0;      ///< seed of the pauses before steps; 0: none
  std::vector<std::string>
      log;  ///< calls of the plan's issue: "launch 0", "record 0 3", "wait 1 3"

  [[nodiscard]] DeviceInfo device() const override { return {.name = "toy", .num_sms = 100}; }
  [[nodiscard]] int max_lanes() const override { return static_cast<int>(lanes_.size()); }
  Buffer allocate(int64_t bytes) override { return allocate_host(bytes); }
  Buffer allocate_pinned(int64_t bytes) override { return allocate_host(bytes); }
  [[nodiscard]] bool supports(const OpArgs&) const override { return supported; }
  [[nodiscard]] int64_t workspace_bytes(const OpArgs& args, const LaunchContext&) const override {
    return static_cast<int64_t>(call_of(args).salt % 3) * 40;
  }
  OwnedWeight prepare_weight(const TensorView&, WeightUse, int64_t) override { return {}; }
  [[nodiscard]] KvLayout kv_layout(const KvShape&) const override { return {}; }

  void launch(const OpArgs& args, const LaunchContext& ctx) override {
    log.push_back("launch " + std::to_string(ctx.lane));
    issue({.lane = ctx.lane, .work = [this, call = &call_of(args), workspace = ctx.workspace] {
             pause(call->salt);
             call->run();
             if (!workspace.empty())
               std::memset(workspace.data(), 0xee, static_cast<size_t>(workspace.rows()));
           }});
  }
  void copy(const TensorView&, const TensorView&, LaneId) override { NANO_CHECK(false); }
  EventId create_event() override {
    events_.push_back(nullptr);
    return static_cast<EventId>(events_.size()) - 1;
  }
  void record(LaneId lane, EventId event) override {
    log.push_back("record " + std::to_string(lane) + " " + std::to_string(event));
    issue({.lane = lane, .record = event});
  }
  void wait(LaneId lane, EventId event) override {
    log.push_back("wait " + std::to_string(lane) + " " + std::to_string(event));
    if (!drop_waits) issue({.lane = lane, .wait = event});
  }
  void synchronize_event(EventId) override { synchronize(); }
  StampId create_stamp() override {
    readings_.push_back(0);
    return static_cast<StampId>(readings_.size()) - 1;
  }
  void stamp(LaneId lane, StampId stamp) override {
    log.push_back("stamp " + std::to_string(lane) + " " + std::to_string(stamp));
    issue({.lane = lane, .work = [this, to = &readings_[static_cast<size_t>(stamp)]] {
             *to = time_.fetch_add(1) + 1;
           }});
  }
  int64_t elapsed_ns(StampId from, StampId to) override {
    return readings_[static_cast<size_t>(to)] - readings_[static_cast<size_t>(from)];
  }
  void begin_capture() override { capturing_ = true; }
  GraphId end_capture() override {
    capturing_ = false;
    captured_.push_back(std::move(capture_));
    capture_.clear();
    return static_cast<GraphId>(captured_.size()) - 1;
  }
  void replay(GraphId graph) override {
    for (const Item& item : captured_[static_cast<size_t>(graph)]) issue(item);
  }
  /// Runs what was issued, every lane on a thread of its own.
  void synchronize() override {
    std::atomic<size_t> ready = 0;
    {
      std::vector<std::jthread> threads;
      for (auto& lane : lanes_)
        threads.emplace_back([&lane, &ready, total = lanes_.size()] {
          ready.fetch_add(1, std::memory_order_relaxed);
          while (ready.load(std::memory_order_relaxed) < total) std::this_thread::yield();
          for (const std::function<void()>& work : lane) work();
        });
    }
    for (auto& lane : lanes_) lane.clear();
    marks_.clear();
    events_.assign(events_.size(), nullptr);
  }

 private:
  using Mark = std::atomic<bool>;
  struct Item {
    LaneId lane = 0;
    std::function<void()> work;
    EventId record = -1;
    EventId wait = -1;
  };

  void issue(const Item& item) {
    if (capturing_) {
      capture_.push_back(item);
      return;
    }
    auto& lane = lanes_.at(static_cast<size_t>(item.lane));
    if (item.work) lane.push_back(item.work);
    if (item.record >= 0) {
      Mark* mark = &marks_.emplace_back(false);
      events_[static_cast<size_t>(item.record)] = mark;
      lane.push_back([mark] { mark->store(true, std::memory_order_release); });
    }
    if (item.wait >= 0) {
      Mark* mark = events_[static_cast<size_t>(item.wait)];
      NANO_CHECK(mark != nullptr, "event {} was never recorded", item.wait);
      lane.push_back([mark] {
        while (!mark->load(std::memory_order_acquire)) std::this_thread::yield();
      });
    }
  }
  void pause(uint64_t salt) const {
    if (jitter == 0) return;
    const uint64_t turns = mix_bits(jitter + salt) % 4;
    for (uint64_t i = 0; i < turns; ++i) std::this_thread::yield();
  }

  std::vector<std::vector<std::function<void()>>> lanes_;
  std::deque<Mark> marks_;         // one per record()
  std::vector<Mark*> events_;      // what each event's latest record() marked
  std::deque<int64_t> readings_;   // of the stamps
  std::atomic<int64_t> time_ = 0;  // the toy's clock counts its readings
  bool capturing_ = false;
  std::vector<Item> capture_;
  std::vector<std::vector<Item>> captured_;
};

}  // namespace nanoflow::toy
