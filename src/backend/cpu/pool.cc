#include "backend/cpu/pool.h"

#include <algorithm>

namespace nanoflow::cpu {
namespace {

/// Checks between loops before a helper sleeps, about 20 us: consecutive ops of a step find their
/// helpers awake, and an idle backend uses no CPU.
constexpr int kSpins = 400;

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Pool::Pool(int helpers) : helpers_(helpers) {
  threads_.reserve(static_cast<size_t>(std::max(0, helpers)));
  try {
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
  } catch (...) {
    stop_helpers();
    throw;
  }
}

Pool::~Pool() {
  stop_helpers();
}

void Pool::stop_helpers() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::work(Loop& loop, int slot) {
  while (true) {
    const int64_t begin = loop.next.fetch_add(loop.piece, std::memory_order_relaxed);
    if (begin >= loop.count) return;
    loop.body(loop.context, begin, std::min(begin + loop.piece, loop.count), slot);
  }
}

Pool::Loop* Pool::find_loop() {
  for (Loop* loop : loops_)
    if (loop->helpers_wanted > 0) return loop;
  return nullptr;
}

void Pool::run(int64_t count, int64_t piece, int max_threads, Body body, const void* context) {
  if (count <= 0) return;
  const int64_t pieces = (count + piece - 1) / piece;
  const auto wanted = static_cast<int>(std::min<int64_t>({pieces, max_threads, helpers_ + 1})) - 1;
  if (wanted <= 0) return body(context, 0, count, 0);
  Loop loop{body, context, count, piece, wanted};
  {
    const std::lock_guard lock(mutex_);
    loops_.push_back(&loop);
    wanted_.fetch_add(wanted, std::memory_order_relaxed);
    if (sleeping_ > 0) wake_.notify_all();
  }
  work(loop, 0);
  {
    const std::lock_guard lock(mutex_);
    std::erase(loops_, &loop);
    wanted_.fetch_sub(loop.helpers_wanted, std::memory_order_relaxed);
  }
  for (int i = 0; loop.helpers_inside.load(std::memory_order_acquire) > 0; ++i) {
    if (i < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::help() {
  while (!stop_.load(std::memory_order_relaxed)) {
    for (int i = 0; i < kSpins && wanted_.load(std::memory_order_relaxed) == 0; ++i) pause_cpu();
    Loop* loop = nullptr;
    int slot = 0;
    {
      std::unique_lock lock(mutex_);
      ++sleeping_;
      wake_.wait(lock, [&] { return stop_ || (loop = find_loop()) != nullptr; });
      --sleeping_;
      if (loop == nullptr) return;
      --loop->helpers_wanted;
      wanted_.fetch_sub(1, std::memory_order_relaxed);
      slot = loop->next_slot++;
      loop->helpers_inside.fetch_add(1, std::memory_order_relaxed);
    }
    work(*loop, slot);
    loop->helpers_inside.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace nanoflow::cpu
