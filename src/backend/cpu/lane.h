// A lane of the CPU backend: one thread with an in-order queue. Positions in the queue are what
// events mark, so recording one costs nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace nanoflow::cpu {

/// The first exception of a backend's lanes; once set, later work is skipped. Thread-safe.
class Failure {
 public:
  [[nodiscard]] bool failed() const { return failed_.load(std::memory_order_acquire); }
  /// Keeps the first one and calls the handler for it.
  void set(std::exception_ptr error);
  /// `handler` runs once, on the lane that failed first. Set before any work is queued.
  void on_failure(std::function<void()> handler) { handler_ = std::move(handler); }
  /// Rethrows the kept exception, which stays kept: a failed backend does not recover.
  void rethrow() const;

 private:
  std::atomic<bool> failed_ = false;
  mutable std::mutex mutex_;
  std::exception_ptr error_;
  std::function<void()> handler_;
};

/// One thread. enqueue() is for one thread at a time; wait_for() for any.
class Lane {
 public:
  /// Starts the thread; throws std::system_error when the system refuses it. `failure` outlives the
  /// lane.
  explicit Lane(Failure& failure) : failure_(failure), thread_([this] { run(); }) {}
  /// Runs what is queued, then joins.
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  /// Appends work. `work` must stay alive until it has run (replays share their graph's closures).
  void enqueue(const std::function<void()>* work);
  void enqueue(std::function<void()> work);
  /// Later work starts after `other` has done its first `position` pieces of work.
  void enqueue_wait(Lane& other, int64_t position);

  /// Number of pieces of work ever enqueued.
  [[nodiscard]] int64_t position() const { return enqueued_; }
  /// Blocks until the first `position` pieces are done (or were skipped after a failure).
  void wait_for(int64_t position);

 private:
  struct Work {
    std::function<void()> own;
    const std::function<void()>* shared = nullptr;
    Lane* wait_lane = nullptr;
    int64_t wait_position = 0;
  };

  void push(Work work);
  void run();
  void execute(const Work& work);

  Failure& failure_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable progress_;
  std::deque<Work> queue_;
  int64_t enqueued_ = 0;           // of the enqueuing thread
  std::atomic<int64_t> done_ = 0;  // changes under mutex_
  int waiters_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nanoflow::cpu
