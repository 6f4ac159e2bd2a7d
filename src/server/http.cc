#include "server/http.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/error.h"
#include "server/http_connection.h"
#include "server/http_text.h"
#include "server/http_thread.h"
#include "server/http_tls.h"

namespace nanoflow {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

// After an accept that failed for want of files or memory.
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::chrono::minutes kAcceptLogPause{1};

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const HttpHeader& header : headers)
    if (equal_ignoring_case(header.name, name)) return header.value;
  return {};
}

class HttpServer::Impl {
 public:
  Impl(const HttpOptions& options, HttpHandler& handler, Logger& logger)
      : options_(options), shared_{options_, handler, logger} {
    if (!options_.tls_certificate.empty())
      tls_.emplace(make_tls_context(options_.tls_certificate, options_.tls_key));
    for (size_t i = 0; i < options_.num_threads; ++i)
      threads_.push_back(std::make_unique<IoThread>(i));
    listen();
  }
  ~Impl() { stop(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void start() {
    for (size_t i = 0; i < acceptors_.size(); ++i) accept(i);
    for (const auto& thread : threads_) thread->start();
  }
  [[nodiscard]] uint16_t port() const { return port_; }
  [[nodiscard]] size_t num_threads() const { return threads_.size(); }
  [[nodiscard]] HttpThread& thread(size_t index) { return *threads_.at(index); }
  [[nodiscard]] HttpStats stats() const {
    return {.open = shared_.open,
            .accepted = shared_.accepted,
            .refused = shared_.refused,
            .malformed = shared_.malformed,
            .cut_off = shared_.cut_off};
  }

  void drain() {
    shared_.draining = true;
    for_each_connection([](Connection& connection) { connection.close_if_idle(); });
  }

  void stop() {
    for (const auto& thread : threads_) thread->stop();
    // No thread is left, so this one may touch everything.
    for (tcp::acceptor& acceptor : acceptors_) {
      error_code ignored;
      acceptor.close(ignored);
    }
    for (const auto& thread : threads_) {
      const auto open = thread->connections();
      for (Connection* connection : open) connection->close();
    }
  }

 private:
  void listen();
  void bind(const tcp::endpoint& endpoint);
  void accept(size_t acceptor);
  void on_accept(size_t acceptor, const error_code& error, tcp::socket socket, IoThread& thread);
  void pause(size_t acceptor, const error_code& error);

  template <typename Task>
  void for_each_connection(Task task) {
    for (const auto& thread : threads_)
      thread->post([&thread = *thread, task] {
        std::vector<std::shared_ptr<Connection>> open;
        for (Connection* connection : thread.connections())
          open.push_back(connection->shared_from_this());
        for (const auto& connection : open) task(*connection);
      });
  }

  const HttpOptions options_;
  HttpShared shared_;
  std::optional<asio::ssl::context> tls_;
  std::vector<std::unique_ptr<IoThread>> threads_;
  std::vector<tcp::acceptor> acceptors_;  // on the first thread
  uint16_t port_ = 0;
  size_t next_thread_ = 0;
  std::optional<std::chrono::steady_clock::time_point> last_accept_log_;
};

void HttpServer::Impl::listen() {
  error_code error;
  tcp::resolver resolver(threads_.front()->loop());
  const auto found = resolver.resolve(options_.host, fmt::format("{}", options_.port),
                                      tcp::resolver::passive, error);
  if (error) throw ConfigError("--host", fmt::format("{}: {}", options_.host, error.message()));
  for (const auto& entry : found) {
    tcp::endpoint endpoint = entry.endpoint();
    if (options_.port == 0) endpoint.port(port_);  // the second address's as the first one's
    bind(endpoint);
  }
}

void HttpServer::Impl::bind(const tcp::endpoint& endpoint) {
  error_code error;
  tcp::acceptor acceptor(threads_.front()->loop());
  const auto ok = [&] { return !error; };
  acceptor.open(endpoint.protocol(), error);
  if (ok()) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (ok()) acceptor.bind(endpoint, error);
  if (ok()) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!ok()) {
    // A machine without IPv6 still has "localhost".
    const bool family_missing = error == asio::error::address_family_not_supported ||
                                error == boost::system::errc::address_not_available;
    if (family_missing && !acceptors_.empty()) return;
    const char* remedy = error == asio::error::address_in_use
                             ? "; end the other program or choose another --port"
                         : error == asio::error::access_denied ? "; choose a --port above 1023"
                                                               : "";
    throw EnvironmentError(fmt::format("cannot listen on {}, port {}: {}{}", options_.host,
                                       endpoint.port(), error.message(), remedy));
  }
  port_ = acceptor.local_endpoint().port();
  acceptors_.push_back(std::move(acceptor));
}

void HttpServer::Impl::accept(size_t acceptor) {
  IoThread& thread = *threads_[next_thread_++ % threads_.size()];
  acceptors_[acceptor].async_accept(
      thread.loop(), [this, acceptor, &thread](const error_code& error, tcp::socket socket) {
        if (error == asio::error::operation_aborted) return;
        on_accept(acceptor, error, std::move(socket), thread);
      });
}

void HttpServer::Impl::on_accept(size_t acceptor, const error_code& error, tcp::socket socket,
                                 IoThread& thread) {
  if (error) return pause(acceptor, error);
  ++shared_.accepted;
  const bool refuse = shared_.open >= options_.max_connections;
  if (refuse) ++shared_.refused;
  // Shared with the task alone: a std::function is copyable, a socket is not.
  const auto owned = std::make_shared<tcp::socket>(std::move(socket));
  thread.post([this, refuse, owned, &thread] {
    make_connection(shared_, thread, std::move(*owned), tls_.has_value() ? &*tls_ : nullptr)
        ->start(refuse);
  });
  accept(acceptor);
}

void HttpServer::Impl::pause(size_t acceptor, const error_code& error) {
  if (error != asio::error::connection_aborted) {
    const auto now = std::chrono::steady_clock::now();
    if (!last_accept_log_.has_value() || now - *last_accept_log_ > kAcceptLogPause) {
      last_accept_log_ = now;
      shared_.logger.warning("cannot accept connections: {} ({} are open); trying on",
                             error.message(), shared_.open.load());
    }
  }
  threads_.front()->post_after(kAcceptPause, [this, acceptor] { accept(acceptor); });
}

HttpServer::HttpServer(const HttpOptions& options, HttpHandler& handler, Logger& logger)
    : impl_(std::make_unique<Impl>(options, handler, logger)) {}
HttpServer::~HttpServer() = default;
void HttpServer::start() {
  impl_->start();
}
uint16_t HttpServer::port() const {
  return impl_->port();
}
size_t HttpServer::num_threads() const {
  return impl_->num_threads();
}
HttpThread& HttpServer::thread(size_t index) {
  return impl_->thread(index);
}
HttpStats HttpServer::stats() const {
  return impl_->stats();
}
void HttpServer::drain() {
  impl_->drain();
}
void HttpServer::stop() {
  impl_->stop();
}

}  // namespace nanoflow
