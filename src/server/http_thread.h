// IoThread: one of the HTTP server's threads with its event loop and the connections that belong to
// it. Internal to http*.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <unordered_set>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "base/log.h"
#include "server/http.h"

namespace nanoflow {

class Connection;

/// What all connections share; lives as long as the server.
struct HttpShared {
  const HttpOptions& options;
  HttpHandler& handler;
  Logger& logger;
  std::atomic<bool> draining{false};
  std::atomic<int64_t> open{0}, accepted{0}, refused{0}, malformed{0}, cut_off{0};
};

class IoThread final : public HttpThread {
 public:
  explicit IoThread(size_t index) : index_(index) {}

  [[nodiscard]] size_t index() const override { return index_; }
  void post(std::function<void()> task) override;
  void post_after(std::chrono::milliseconds delay, std::function<void()> task) override;

  [[nodiscard]] boost::asio::io_context& loop() { return loop_; }
  /// Connections that live here; on this thread only.
  [[nodiscard]] std::unordered_set<Connection*>& connections() { return connections_; }

  void start();
  /// Ends the loop at once and joins; from another thread.
  void stop();

 private:
  const size_t index_;
  std::unordered_set<Connection*> connections_;  // outlives what the loop still holds
  boost::asio::io_context loop_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{
      loop_.get_executor()};
  std::thread thread_;
};

}  // namespace nanoflow
