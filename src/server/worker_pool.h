// WorkerPool: a few threads for requests whose parsing and tokenising would hold up other streams.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nanoflow {

class WorkerPool {
 public:
  /// `max_waiting`: tasks that may wait for a thread.
  WorkerPool(size_t num_threads, size_t max_waiting);
  /// stop().
  ~WorkerPool() { stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /// Runs `task` on one of the threads; any thread, never blocks. False: too many wait, or the pool
  /// has stopped. `task` must not throw.
  [[nodiscard]] bool submit(std::function<void()> task);
  /// Drops what waits and joins the threads. Idempotent.
  void stop();

 private:
  void run();

  const size_t max_waiting_;
  std::mutex mutex_;  // guards the next three
  std::condition_variable ready_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nanoflow
