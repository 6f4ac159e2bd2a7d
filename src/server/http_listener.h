// The sockets that listen, and the acceptance of connections.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/log.h"

namespace nanoflow {

/// Lives on one event loop; after start() only its thread may touch it.
class HttpListener {
 public:
  /// Takes a non-blocking socket, which it owns from then on.
  using Accept = std::function<void(int fd, std::string peer)>;

  /// Listens at every address that `host` has. Throws EnvironmentError that says what to do.
  HttpListener(boost::asio::io_context& context, const std::string& host, uint16_t port,
               Logger& logger);
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  [[nodiscard]] uint16_t port() const { return port_; }
  void start(Accept accept);
  void close();

 private:
  using Socket = boost::asio::posix::stream_descriptor;
  using Clock = std::chrono::steady_clock;

  void wait(Socket& socket);
  void accept_some(Socket& socket);
  void back_off(Socket& socket, int error);

  boost::asio::io_context& context_;
  Logger& logger_;
  std::vector<std::unique_ptr<Socket>> sockets_;
  uint16_t port_;
  Accept accept_;
  Clock::time_point next_complaint_ = Clock::time_point::min();
};

}  // namespace nanoflow
