#include "backend/cpu/lane.h"

#include <utility>

namespace nanoflow::cpu {

void Failure::set(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (error_ != nullptr) return;
    error_ = std::move(error);
    failed_.store(true, std::memory_order_release);
  }
  if (handler_) handler_();
}

void Failure::rethrow() const {
  if (!failed()) return;
  const std::lock_guard lock(mutex_);
  std::rethrow_exception(error_);
}

Lane::~Lane() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_one();
  thread_.join();
}

void Lane::enqueue(const std::function<void()>* work) {
  push(Work{.shared = work});
}

void Lane::enqueue(std::function<void()> work) {
  push(Work{.own = std::move(work)});
}

void Lane::enqueue_wait(Lane& other, int64_t position) {
  // In-order execution is the wait for an own position; a position that was passed needs none.
  if (&other == this || other.done_.load(std::memory_order_acquire) >= position) return;
  push(Work{.wait_lane = &other, .wait_position = position});
}

void Lane::push(Work work) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  ++enqueued_;
  work_.notify_one();
}

void Lane::wait_for(int64_t position) {
  if (done_.load(std::memory_order_acquire) >= position) return;
  std::unique_lock lock(mutex_);
  ++waiters_;
  progress_.wait(lock, [&] { return done_.load(std::memory_order_relaxed) >= position; });
  --waiters_;
}

void Lane::execute(const Work& work) {
  if (work.wait_lane != nullptr) return work.wait_lane->wait_for(work.wait_position);
  if (failure_.failed()) return;
  try {
    if (work.shared != nullptr) {
      (*work.shared)();
    } else {
      work.own();
    }
  } catch (...) {
    failure_.set(std::current_exception());
  }
}

void Lane::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    {
      const Work work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      execute(work);
    }
    lock.lock();
    done_.store(done_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    if (waiters_ > 0) progress_.notify_all();
  }
}

}  // namespace nanoflow::cpu
