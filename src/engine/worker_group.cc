#include "engine/worker_group.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include "base/bounded_queue.h"
#include "base/error.h"
#include "engine/worker.h"

namespace nanoflow {

namespace {

/// One rank's thread: makes its Worker, runs commands on it in order, and destroys it. A command
/// that throws aborts the group's communicator, so that no other rank waits for this one.
class RankThread {
 public:
  explicit RankThread(Communicator& communicator)
      : communicator_(communicator), thread_([this] { run(); }) {}
  ~RankThread() {
    commands_.close();
    thread_.join();
  }
  RankThread(const RankThread&) = delete;
  RankThread& operator=(const RankThread&) = delete;

  /// Runs `work(worker)` on the thread; `worker` is an empty pointer until a command fills it.
  template <typename Work>
  auto post(Work work) -> std::future<decltype(work(std::declval<std::unique_ptr<Worker>&>()))> {
    using Value = decltype(work(std::declval<std::unique_ptr<Worker>&>()));
    auto task = std::make_shared<std::packaged_task<Value()>>(  // shared with the queued command
        [this, work = std::move(work)] {
          try {
            return work(worker_);
          } catch (...) {
            communicator_.abort();
            throw;
          }
        });
    std::future<Value> result = task->get_future();
    (void)commands_.push([task] { (*task)(); });
    return result;
  }

 private:
  void run() {
    while (auto command = commands_.pop()) (*command)();
    worker_.reset();
  }

  // A launch, a wait and their successors: the engine is never further ahead.
  static constexpr size_t kCapacity = 8;

  Communicator& communicator_;
  std::unique_ptr<Worker> worker_;  // the thread's own
  BoundedQueue<std::function<void()>> commands_{kCapacity};
  std::thread thread_;
};

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

/// Waits for all ranks. Rethrows a failure; several different ones as one message. A rank that is
/// not ready by the deadline throws DeviceHang, whatever the others say.
template <typename Value>
std::vector<Value> get_all(std::vector<std::future<Value>>& futures,
                           const Deadline& deadline = std::nullopt) {
  std::vector<Value> values;
  std::exception_ptr first;
  std::set<std::string> messages;
  for (std::future<Value>& future : futures) {
    if (deadline && future.wait_until(*deadline) != std::future_status::ready)
      throw DeviceHang("the device does not finish it");
    try {
      values.push_back(future.get());
    } catch (const std::exception& e) {
      if (!first) first = std::current_exception();
      messages.insert(e.what());
    }
  }
  if (messages.size() > 1) {
    throw EnvironmentError(fmt::format("{}", fmt::join(messages, "; ")));
  }
  if (first) std::rethrow_exception(first);
  return values;
}

/// One `progress` for all ranks: rank 0 reports; what that throws ends the others' loading, too.
class GroupProgress {
 public:
  explicit GroupProgress(const LoadProgress& progress) : progress_(progress) {}

  LoadProgress of_rank(int rank) {
    if (!progress_) return {};
    return [this, rank](int64_t done, int64_t total) {
      const std::lock_guard lock(mutex_);
      if (failure_) std::rethrow_exception(failure_);
      if (rank != 0) return;
      try {
        progress_(done, total);
      } catch (...) {
        failure_ = std::current_exception();
        throw;
      }
    };
  }

 private:
  const LoadProgress& progress_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

class WorkerGroup final : public StepRunner {
 public:
  WorkerGroup(const EngineConfig& config, const ModelConfig& model, const CheckpointSource& source,
              const BackendFactory& make_backend, Logger& logger, const LoadProgress& progress,
              const StepRecordSink& records)
      : step_timeout_s_(config.step_timeout_s),
        communicators_(make_in_process_group(config.tp_size)) {
    for (const auto& communicator : communicators_) {
      ranks_.push_back(std::make_unique<RankThread>(*communicator));
    }
    GroupProgress group_progress(progress);
    const std::vector<int64_t> pages =
        on_all<int64_t>([&](std::unique_ptr<Worker>& worker, int rank) {
          worker = std::make_unique<Worker>(
              config, model, source, make_backend(*communicators_[static_cast<size_t>(rank)]), rank,
              logger, group_progress.of_rank(rank), rank == 0 ? records : StepRecordSink());
          return worker->affordable_pages();
        });
    const int64_t num_pages = *std::min_element(pages.begin(), pages.end());
    limits_ = on_all<EngineLimits>([&](std::unique_ptr<Worker>& worker, int) {
                worker->allocate_cache(num_pages);
                return worker->limits();
              }).front();
  }

  [[nodiscard]] EngineLimits limits() const override { return limits_; }

  void launch(const StepBatch& batch) override {
    std::vector<std::future<bool>> launches;
    for (const auto& rank : ranks_) {
      launches.push_back(rank->post([&batch](std::unique_ptr<Worker>& worker) {
        worker->launch(batch);
        return true;
      }));
    }
    launches_.push_back(std::move(launches));
  }

  StepResults results() override {
    std::vector<std::future<StepResults>> results;
    for (const auto& rank : ranks_) {
      results.push_back(
          rank->post([](std::unique_ptr<Worker>& worker) { return worker->results(); }));
    }
    std::vector<std::future<bool>> launches = std::move(launches_.front());
    launches_.pop_front();
    const Deadline deadline = step_deadline();
    try {
      (void)get_all(launches, deadline);
      return std::move(get_all(results, deadline).front());
    } catch (const DeviceHang&) {
      throw DeviceHang(fmt::format(
          "it has not ended in {} s: the device hangs, or --step-timeout is too short for it",
          step_timeout_s_));
    }
  }

 private:
  /// Runs `work(worker, rank)` on every rank at the same time.
  template <typename Value>
  std::vector<Value> on_all(const std::function<Value(std::unique_ptr<Worker>&, int)>& work) {
    std::vector<std::future<Value>> futures;
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      futures.push_back(ranks_[rank]->post([&work, rank](std::unique_ptr<Worker>& worker) {
        return work(worker, static_cast<int>(rank));
      }));
    }
    return get_all(futures);
  }

  /// Of the oldest step, asked for now: those before it have ended, so it has had the device since.
  [[nodiscard]] Deadline step_deadline() const {
    if (step_timeout_s_ == 0) return std::nullopt;
    const std::chrono::duration<double> timeout(step_timeout_s_);
    return std::chrono::steady_clock::now() +
           std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout);
  }

  const double step_timeout_s_;
  std::vector<std::unique_ptr<Communicator>> communicators_;  // outlive the ranks' backends
  std::vector<std::unique_ptr<RankThread>> ranks_;
  std::deque<std::vector<std::future<bool>>> launches_;  // of the steps in flight
  EngineLimits limits_;
};

}  // namespace

std::unique_ptr<StepRunner> make_worker_group(const EngineConfig& config, const ModelConfig& model,
                                              const CheckpointSource& source,
                                              const BackendFactory& make_backend, Logger& logger,
                                              const LoadProgress& progress,
                                              const StepRecordSink& records) {
  config.validate();
  model.validate_tp(config.tp_size);
  return std::make_unique<WorkerGroup>(config, model, source, make_backend, logger, progress,
                                       records);
}

}  // namespace nanoflow
