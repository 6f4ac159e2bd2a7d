#include "server/http.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include <strings.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "server/http_connection.h"
#include "server/http_listener.h"
#include "server/http_loop.h"

namespace nanoflow {
namespace {

// Clients above max_connections that may be waiting for their 503; more are closed unanswered.
constexpr int64_t kMaxBeingRefused = 256;

// OpenSSL writes to sockets whose peer may have gone. A program's own handler stays.
void ignore_broken_pipes() {
  struct sigaction current {};
  if (::sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL)
    (void)std::signal(SIGPIPE, SIG_IGN);
}

SslContext tls_of(const HttpOptions& options) {
  if (options.tls_certificate.empty() && options.tls_key.empty()) return nullptr;
  if (options.tls_certificate.empty() || options.tls_key.empty())
    throw EnvironmentError("TLS needs both a certificate and its key; one of the files is missing");
  return make_tls_context(options.tls_certificate, options.tls_key);
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  const auto found = std::find_if(headers.begin(), headers.end(), [&](const HttpHeader& h) {
    return h.name.size() == name.size() &&
           strncasecmp(h.name.data(), name.data(), name.size()) == 0;
  });
  return found == headers.end() ? std::string_view() : std::string_view(found->value);
}

class HttpServer::Impl {
 public:
  Impl(const HttpOptions& options, HttpHandler& handler, Logger& logger)
      : shared_(new HttpShared{options, handler, logger, tls_of(options)}) {
    NANO_CHECK(options.num_threads > 0);
    for (size_t i = 0; i < options.num_threads; ++i)
      loops_.push_back(std::make_shared<HttpLoop>(i, shared_));
    listener_ =
        std::make_unique<HttpListener>(loops_[0]->context(), options.host, options.port, logger);
    ignore_broken_pipes();
  }

  void start() {
    for (const std::shared_ptr<HttpLoop>& loop : loops_) loop->start();
    loops_[0]->post([this] {
      listener_->start([this](int fd, std::string peer) { admit(fd, std::move(peer)); });
    });
  }

  void stop() {
    loops_[0]->post([this] { listener_->close(); });
    for (const std::shared_ptr<HttpLoop>& loop : loops_) loop->stop();
  }

  void drain() {
    shared_->draining = true;
    for (const std::shared_ptr<HttpLoop>& loop : loops_) loop->drain();
  }

  [[nodiscard]] HttpStats stats() const {
    HttpStats stats;
    stats.open = shared_->open;
    stats.accepted = shared_->accepted;
    stats.refused = shared_->refused;
    stats.malformed = shared_->malformed;
    stats.cut_off = shared_->cut_off;
    return stats;
  }

  [[nodiscard]] uint16_t port() const { return listener_->port(); }
  [[nodiscard]] size_t num_threads() const { return loops_.size(); }
  [[nodiscard]] HttpThread& thread(size_t index) { return *loops_.at(index); }

 private:
  // On the first loop's thread.
  void admit(int fd, std::string peer) {
    shared_->accepted += 1;
    auto admission = HttpConnection::Admission::kServe;
    if (shared_->open >= shared_->options.max_connections) {
      shared_->refused += 1;
      if (shared_->being_refused >= kMaxBeingRefused) {
        ::close(fd);
        return;
      }
      admission = HttpConnection::Admission::kRefuse;
    }
    const auto& loop =
        *std::min_element(loops_.begin(), loops_.end(),
                          [](const auto& a, const auto& b) { return a->load() < b->load(); });
    auto connection = std::make_shared<HttpConnection>(loop, fd, std::move(peer), admission);
    loop->post([connection = std::move(connection)] { connection->start(); });
  }

  std::shared_ptr<HttpShared> shared_;            // with the loops
  std::vector<std::shared_ptr<HttpLoop>> loops_;  // with connections that outlive the server
  std::unique_ptr<HttpListener> listener_;
};

HttpServer::HttpServer(const HttpOptions& options, HttpHandler& handler, Logger& logger)
    : impl_(std::make_unique<Impl>(options, handler, logger)) {}

HttpServer::~HttpServer() {  // NOLINT(bugprone-exception-escape)
  stop();
}

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
