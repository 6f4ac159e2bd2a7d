#include "server/http_loop.h"

#include <ctime>
#include <utility>

#include <boost/asio/post.hpp>

#include "server/http_connection.h"
#include "server/http_message.h"

namespace nanoflow {
namespace {

// As much as a socket hands over at once; larger reads were no faster.
constexpr size_t kScratchBytes = size_t{64} << 10;

}  // namespace

HttpLoop::HttpLoop(size_t index, std::shared_ptr<HttpShared> shared)
    : index_(index), shared_(std::move(shared)), scratch_(kScratchBytes) {}

HttpLoop::~HttpLoop() = default;

bool HttpLoop::is_current() const {
  return std::this_thread::get_id() == thread_id_.load(std::memory_order_relaxed);
}

void HttpLoop::start() {
  work_.emplace(context_.get_executor());
  thread_ = std::thread([this] {
    thread_id_ = std::this_thread::get_id();
    context_.run();
  });
}

void HttpLoop::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    tasks_.push_back(std::move(task));
    if (tasks_.size() > 1) return;  // who posted the first has woken the loop
  }
  boost::asio::post(context_, [this] { run_tasks(); });
}

void HttpLoop::run_tasks() {
  {
    const std::lock_guard lock(mutex_);
    running_.swap(tasks_);
  }
  for (std::function<void()>& task : running_) {
    task();
    task = nullptr;  // what it owns goes before the next one runs
  }
  running_.clear();
}

void HttpLoop::post_after(std::chrono::milliseconds delay, std::function<void()> task) {
  post([this, at = Clock::now() + delay, task = std::move(task)]() mutable {
    const bool is_first = delayed_.empty() || at < delayed_.begin()->first;
    delayed_.emplace(at, std::move(task));
    if (is_first) arm_delayed();
  });
}

void HttpLoop::arm_delayed() {
  if (delayed_.empty()) return;
  delayed_timer_.expires_at(delayed_.begin()->first);
  delayed_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) run_delayed();
  });
}

void HttpLoop::run_delayed() {
  const auto now = Clock::now();
  while (!delayed_.empty() && delayed_.begin()->first <= now) {
    const std::function<void()> task = std::move(delayed_.begin()->second);
    delayed_.erase(delayed_.begin());
    task();
  }
  arm_delayed();
}

void HttpLoop::add(std::shared_ptr<HttpConnection> connection) {
  connection->slot = connections_.size();
  connections_.push_back(std::move(connection));
}

void HttpLoop::remove(HttpConnection& connection) {
  const size_t slot = connection.slot;
  if (slot == HttpConnection::kNoSlot) return;
  connection.slot = HttpConnection::kNoSlot;
  std::swap(connections_[slot], connections_.back());
  if (slot + 1 < connections_.size()) connections_[slot]->slot = slot;
  connections_.pop_back();
}

void HttpLoop::flush_soon(std::shared_ptr<HttpConnection> connection) {
  unflushed_.push_back(std::move(connection));
  if (unflushed_.size() == 1) boost::asio::post(context_, [this] { flush_all(); });
}

void HttpLoop::flush_all() {
  flushing_.swap(unflushed_);
  for (const std::shared_ptr<HttpConnection>& connection : flushing_) connection->flush();
  flushing_.clear();
}

const std::string& HttpLoop::date() {
  const int64_t now = std::time(nullptr);
  if (now != date_second_) {
    date_ = http_date(now);
    date_second_ = now;
  }
  return date_;
}

void HttpLoop::drain() {
  post([this] {
    const std::vector<std::shared_ptr<HttpConnection>> all = connections_;
    for (const std::shared_ptr<HttpConnection>& connection : all) connection->close_if_idle();
  });
}

void HttpLoop::close_all() {
  while (!connections_.empty()) {
    const std::shared_ptr<HttpConnection> last = connections_.back();
    last->close();
  }
}

void HttpLoop::finish() {
  close_all();
  if (thread_.joinable()) run_tasks();  // on_closed() of those
  delayed_timer_.cancel();
  std::vector<std::function<void()>> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(tasks_);
  }
  dropped.clear();
  delayed_.clear();
  close_all();  // a task above may have started one
  work_.reset();
}

void HttpLoop::stop() {
  if (thread_.joinable()) {
    boost::asio::post(context_, [this] { finish(); });
    thread_.join();  // the loop ends when the waits of closed connections have ended
  } else {
    finish();
  }
}

}  // namespace nanoflow
