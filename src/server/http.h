// HTTP/1.1 and TLS for the server: connections, limits, streams. The one place that knows which
// HTTP library is used; what the requests mean is a handler's business.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace nanoflow {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;  ///< "GET", "POST", ...
  std::string path;    ///< percent-decoded, without the query
  std::string query;   ///< as sent, without "?"
  std::vector<HttpHeader> headers;
  std::string body;
  std::string peer;  ///< "address:port", for logs

  /// The first header of that name, whatever its case; "" when there is none.
  [[nodiscard]] std::string_view header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;  ///< besides Content-Type and what frames the body
  std::string body;
};

/// One of the server's threads. A connection belongs to one of them from its first byte to its
/// last, so state that is kept per thread needs no lock.
class HttpThread {
 public:
  virtual ~HttpThread() = default;
  [[nodiscard]] virtual size_t index() const = 0;  ///< 0 .. HttpOptions::num_threads - 1
  /// Runs `task` on this thread soon; any thread may call. Dropped after the server has stopped.
  virtual void post(std::function<void()> task) = 0;
  /// Runs `task` on this thread after `delay`, unless the server has stopped. Any thread.
  virtual void post_after(std::chrono::milliseconds delay, std::function<void()> task) = 0;
};

/// The answer to one request: either respond() once, or begin_stream(), write() any number of
/// times, end_stream(). All on thread(). What is written after the client has gone is dropped.
/// Destroying it unanswered answers 500 (before a stream has begun) or cuts the connection; that
/// may happen on any thread, also after the server is gone. A head that cannot be sent (a line end
/// in a header, a header that frames the body) is logged and answered with 500.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  [[nodiscard]] virtual HttpThread& thread() = 0;

  virtual void respond(HttpResponse response) = 0;

  /// Status, headers and the first bytes of a body whose length is not known (chunked; for HTTP/1.0
  /// the connection's end ends it).
  virtual void begin_stream(HttpResponse head) = 0;
  /// Takes the bytes at once and sends them as soon as the socket takes them; writes that come
  /// while another is under way are sent together. A client that reads too slowly, so that more
  /// than HttpOptions::max_buffered_bytes wait, is cut off.
  virtual void write(std::string_view bytes) = 0;
  virtual void end_stream() = 0;

  /// `task` runs on thread(), at most once, when the client vanishes or is cut off before the
  /// answer has been sent whole, or the server stops. A client that only shuts down its sending
  /// side counts as gone.
  virtual void on_closed(std::function<void()> task) = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// Called on exchange->thread(); must not block. Must not throw.
  virtual void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
  /// The body of an answer that the HTTP layer itself gives (malformed head, too large, too slow,
  /// too many connections); any of the server's threads.
  virtual HttpResponse refusal(int status, const std::string& message) = 0;
};

struct HttpOptions {
  std::string host = "0.0.0.0";  ///< an address, or a name: all of its addresses
  uint16_t port = 8000;          ///< 0: any free one
  size_t num_threads = 1;
  int64_t max_connections = 16384;               ///< more are answered with 503 and closed
  int64_t max_body_bytes = int64_t{32} << 20;    ///< more: 413
  int64_t max_header_bytes = int64_t{16} << 10;  ///< more: 431
  int64_t max_buffered_bytes = int64_t{4} << 20;
  std::chrono::milliseconds header_timeout{10'000};  ///< from a head's first byte (or the
                                                     ///< connection's start) to its end: 408
  std::chrono::milliseconds body_timeout{60'000};    ///< for the whole body: 408
  std::chrono::milliseconds idle_timeout{75'000};    ///< between requests: closed in silence
  std::chrono::milliseconds write_timeout{30'000};   ///< without any byte taken: cut off
  std::string tls_certificate;  ///< file of a PEM chain; "" with tls_key "": plain HTTP
  std::string tls_key;
};

/// A snapshot; totals since start but for `open`.
struct HttpStats {
  int64_t open = 0;
  int64_t accepted = 0;
  int64_t refused = 0;    ///< by max_connections
  int64_t malformed = 0;  ///< answered by the HTTP layer itself
  int64_t cut_off = 0;    ///< too slow
};

class HttpServer {
 public:
  /// Binds and listens; nothing is accepted before start(). `handler` and `logger` must outlive the
  /// server. Throws EnvironmentError that says what to do: address in use, no right to the port,
  /// unknown host, unreadable or mismatched certificate and key.
  HttpServer(const HttpOptions& options, HttpHandler& handler, Logger& logger);
  /// stop(). Throws nothing but for want of memory, which then ends the program, as it should.
  ~HttpServer();  // NOLINT(bugprone-exception-escape)
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  void start();
  [[nodiscard]] uint16_t port() const;
  [[nodiscard]] size_t num_threads() const;
  [[nodiscard]] HttpThread& thread(size_t index);
  [[nodiscard]] HttpStats stats() const;

  /// From now on answers say "Connection: close", and idle connections are closed; new ones are
  /// still accepted, so that they get an answer (503 from the handler) instead of a refused
  /// connection.
  void drain();
  /// Closes everything and joins the threads. Not from one of them. Idempotent.
  void stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nanoflow
