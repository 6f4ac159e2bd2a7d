// Helper threads that the lanes of one backend share. A lane's thread works on its own loops;
// helpers that are awake join. The lane waits for pieces that a helper has begun, never for a
// helper that has not come: on a busy machine a fixed split (OpenMP's static schedule and its
// barrier) waited for a descheduled thread, 4-8 ms for loops of 0.1 ms.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace nanoflow::cpu {

class Pool {
 public:
  /// Piece [begin, end) of a loop, on the thread of number `slot` among those in the loop.
  using Body = void (*)(const void* context, int64_t begin, int64_t end, int slot);

  /// Starts `helpers` threads; throws std::system_error when the system refuses one: a request must
  /// not be the first to find out.
  explicit Pool(int helpers);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  /// Calls `body` for pieces of [0, count) of `piece` iterations each, on up to `max_threads`
  /// threads (slots 0 to max_threads - 1; this thread is slot 0), and returns when all are done.
  /// Any thread, also several at once. `body` must not throw.
  void run(int64_t count, int64_t piece, int max_threads, Body body, const void* context);

 private:
  struct Loop {
    Body body;
    const void* context;
    int64_t count;
    int64_t piece;
    int helpers_wanted;             // under mutex_
    int next_slot = 1;              // under mutex_
    std::atomic<int64_t> next = 0;  // first iteration that nobody has taken
    std::atomic<int> helpers_inside = 0;
  };

  static void work(Loop& loop, int slot);
  void help();
  [[nodiscard]] Loop* find_loop();  // under mutex_
  void stop_helpers();

  const int helpers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Loop*> loops_;
  std::atomic<int> wanted_ = 0;  // helpers wanted by all open loops; changes under mutex_
  int sleeping_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace nanoflow::cpu
