// Connection: one client's socket from the handshake to the close. Internal to http*.cc.
#pragma once

#include <functional>
#include <memory>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>

#include "server/http_thread.h"

namespace nanoflow {

/// As its thread and the answers to its requests see it. Everything on its thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpShared& shared, IoThread& thread);
  virtual ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] IoThread& thread() { return thread_; }

  /// Reads the first request, or, where there are too many connections, refuses.
  virtual void start(bool refuse) = 0;
  /// Closes it unless it is busy with a request.
  virtual void close_if_idle() = 0;
  virtual void close() = 0;

  // HttpExchange's, for the request that is being answered.
  virtual void respond(HttpResponse response) = 0;
  virtual void begin_stream(HttpResponse head) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end_stream() = 0;
  virtual void on_closed(std::function<void()> task) = 0;
  /// Its exchange has gone without an answer.
  virtual void unanswered() = 0;

 protected:
  HttpShared& shared_;
  IoThread& thread_;
};

/// A connection over `socket`, which runs on `thread`'s loop; `tls`: nullptr for plain HTTP.
std::shared_ptr<Connection> make_connection(HttpShared& shared, IoThread& thread,
                                            boost::asio::ip::tcp::socket socket,
                                            boost::asio::ssl::context* tls);

}  // namespace nanoflow
