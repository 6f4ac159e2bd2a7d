// One thread of the server: its event loop, its connections, tasks posted to it. What a connection
// does is http_connection.h; who accepts them is http_listener.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "server/http.h"
#include "server/http_tls.h"

namespace nanoflow {

class HttpConnection;

/// What all threads of a server share. `handler` and `logger` are not used after stop().
struct HttpShared {
  HttpOptions options;
  HttpHandler& handler;
  Logger& logger;
  SslContext tls;  ///< null: plain HTTP
  std::atomic<bool> draining{false};
  std::atomic<int64_t> open{0};
  std::atomic<int64_t> being_refused{0};  ///< above max_connections, until they have their 503
  std::atomic<int64_t> accepted{0};
  std::atomic<int64_t> refused{0};
  std::atomic<int64_t> malformed{0};
  std::atomic<int64_t> cut_off{0};
};

/// Connections share ownership, so that an exchange that outlives the server finds its thread.
class HttpLoop final : public HttpThread {
 public:
  HttpLoop(size_t index, std::shared_ptr<HttpShared> shared);
  ~HttpLoop() override;
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  // HttpThread, any thread.
  [[nodiscard]] size_t index() const override { return index_; }
  void post(std::function<void()> task) override;
  void post_after(std::chrono::milliseconds delay, std::function<void()> task) override;

  void start();
  /// Closes every connection, runs what that posts, drops later tasks, and joins. Idempotent.
  void stop();
  /// Any thread: closes idle connections soon.
  void drain();
  /// Any thread: connections that live here, for spreading new ones.
  [[nodiscard]] int64_t load() const { return load_.load(std::memory_order_relaxed); }

  // For connections and the listener, on this thread.
  [[nodiscard]] boost::asio::io_context& context() { return context_; }
  [[nodiscard]] HttpShared& shared() { return *shared_; }
  [[nodiscard]] bool is_current() const;
  void add(std::shared_ptr<HttpConnection> connection);
  void remove(HttpConnection& connection);
  /// Flushes `connection` once everything that is ready now has run, so that what is written
  /// together is sent together.
  void flush_soon(std::shared_ptr<HttpConnection> connection);
  /// Where connections read to: none of them keeps a buffer while it waits.
  [[nodiscard]] std::span<char> scratch() { return scratch_; }
  /// http_date() of now.
  [[nodiscard]] const std::string& date();

  void count_connection(int64_t by) { load_.fetch_add(by, std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  void run_tasks();
  void run_delayed();
  void arm_delayed();
  void flush_all();
  void close_all();
  void finish();

  const size_t index_;
  std::shared_ptr<HttpShared> shared_;  // with the other threads
  boost::asio::io_context context_{1};
  std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work_;
  boost::asio::steady_timer delayed_timer_{context_};
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_{};
  std::atomic<int64_t> load_{0};

  std::mutex mutex_;  // tasks_, stopped_
  std::vector<std::function<void()>> tasks_;
  bool stopped_ = false;

  // This thread's alone.
  std::multimap<Clock::time_point, std::function<void()>> delayed_;
  std::vector<std::function<void()>> running_;
  std::vector<std::shared_ptr<HttpConnection>> connections_;  // with their waits and exchanges
  std::vector<std::shared_ptr<HttpConnection>> unflushed_;
  std::vector<std::shared_ptr<HttpConnection>> flushing_;
  std::vector<char> scratch_;
  std::string date_;
  int64_t date_second_ = -1;
};

}  // namespace nanoflow
