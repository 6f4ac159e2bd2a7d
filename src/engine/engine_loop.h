// EngineLoop: the engine's thread and what it shares with others. Internal to engine/.
#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/engine.h"
#include "engine/scheduler.h"
#include "engine/step_runner.h"

namespace nanoflow {

class EngineLoop {
 public:
  EngineLoop(const EngineConfig& config, const EngineLimits& limits,
             std::unique_ptr<StepRunner> runner, const Clock& clock, Logger& logger);
  ~EngineLoop() { shutdown(); }
  EngineLoop(const EngineLoop&) = delete;
  EngineLoop& operator=(const EngineLoop&) = delete;

  // As in Engine.
  Result<RequestHandle> submit(Request request, std::shared_ptr<EventQueue> events);
  bool wait_for_room(std::chrono::nanoseconds timeout);
  void cancel(RequestId id);
  void drain();
  void shutdown();
  [[nodiscard]] const EngineLimits& limits() const { return limits_; }
  [[nodiscard]] EngineStats stats() const;
  [[nodiscard]] std::string failure() const;

 private:
  enum class Mode : uint8_t { kServing, kDraining, kStopping };
  struct Submission {
    std::unique_ptr<Sequence> sequence;
    std::shared_ptr<EventQueue> events;  // the handle's; shared with the client
  };

  // Any thread; mutex_ held.
  [[nodiscard]] Result<void> check_acceptance(RequestId id) const;
  [[nodiscard]] bool has_room() const;

  // Engine thread.
  void run();
  bool admit();
  void wait_for_work(std::unique_lock<std::mutex>& lock);
  void iterate();
  void stop();
  [[nodiscard]] const StepBatch& oldest_batch() const;
  void fail_everything(const std::string& reason);
  void abandon_device();
  void end_all_requests(FinishReason reason, const std::string& error);
  void add_to_scheduler(std::vector<Submission> inbox);
  void commit_oldest();
  void deliver();
  void publish_stats();

  const EngineConfig config_;
  const EngineLimits limits_;
  const Clock& clock_;
  Logger& logger_;

  mutable std::mutex mutex_;  // guards this block
  std::condition_variable wake_;
  std::condition_variable room_;
  std::condition_variable drained_;
  Mode mode_ = Mode::kServing;
  std::string failure_;
  std::vector<Submission> inbox_;
  std::vector<RequestId> cancels_;
  std::unordered_set<RequestId> live_;  // accepted, last event not yet sent
  int64_t open_requests_ = 0;           // accepted, last event not yet received by its queue
  int64_t unscheduled_ = 0;             // behind the inbox, never scheduled yet
  int64_t next_arrival_ = 0;
  RequestId next_own_id_ = RequestId{1} << 63;
  EngineStats stats_;

  // Engine thread only.
  // Outlives the runner, which may still have a step to launch when an earlier one failed. Behind a
  // pointer, so that it can be abandoned with the runner.
  std::unique_ptr<std::array<StepBatch, 2>> batches_ = std::make_unique<std::array<StepBatch, 2>>();
  std::unique_ptr<StepRunner> runner_;
  Scheduler scheduler_;
  size_t next_batch_ = 0;
  EngineStats times_;  // its time and step fields only
  std::unordered_map<RequestId, std::shared_ptr<EventQueue>> queues_;  // shared with the clients

  std::mutex join_mutex_;
  std::thread thread_;
};

class Engine::Impl final : public EngineLoop {
 public:
  using EngineLoop::EngineLoop;
};

}  // namespace nanoflow
