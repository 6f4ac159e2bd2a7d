#include "server/http_transport.h"

#include <algorithm>
#include <cerrno>
#include <climits>

#include <sys/socket.h>

#include <openssl/err.h>

#include "base/check.h"

namespace nanoflow {
namespace {

IoResult socket_result(ssize_t returned, IoStatus when_full) {
  if (returned >= 0) return {IoStatus::kDone, static_cast<size_t>(returned)};
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {when_full, 0};
  return {IoStatus::kFailed, 0};
}

int clamp_to_int(size_t size) {
  return static_cast<int>(std::min(size, size_t{INT_MAX}));
}

}  // namespace

HttpTransport::HttpTransport(int fd, SSL_CTX* tls) : fd_(fd) {
  if (tls == nullptr) return;
  ssl_.reset(SSL_new(tls));
  NANO_CHECK(ssl_ != nullptr && SSL_set_fd(ssl_.get(), fd) == 1, "no memory for a TLS connection");
  SSL_set_accept_state(ssl_.get());
}

IoResult HttpTransport::tls_result(int returned) {
  if (returned > 0) return {IoStatus::kDone, static_cast<size_t>(returned)};
  switch (SSL_get_error(ssl_.get(), returned)) {
    case SSL_ERROR_WANT_READ: return {IoStatus::kWantRead, 0};
    case SSL_ERROR_WANT_WRITE: return {IoStatus::kWantWrite, 0};
    case SSL_ERROR_ZERO_RETURN: return {IoStatus::kEnd, 0};
    default: return {IoStatus::kFailed, 0};
  }
}

IoResult HttpTransport::handshake() {
  ERR_clear_error();
  return tls_result(SSL_do_handshake(ssl_.get()));
}

IoResult HttpTransport::read(std::span<char> into) {
  if (ssl_) {
    ERR_clear_error();
    return tls_result(SSL_read(ssl_.get(), into.data(), clamp_to_int(into.size())));
  }
  ssize_t got = 0;
  do {
    got = ::recv(fd_, into.data(), into.size(), 0);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return {IoStatus::kEnd, 0};
  return socket_result(got, IoStatus::kWantRead);
}

IoResult HttpTransport::write(std::string_view bytes) {
  if (ssl_) {
    ERR_clear_error();
    return tls_result(SSL_write(ssl_.get(), bytes.data(), clamp_to_int(bytes.size())));
  }
  ssize_t sent = 0;
  do {
    sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return socket_result(sent, IoStatus::kWantWrite);
}

void HttpTransport::shutdown_sending() {
  if (ssl_ && SSL_is_init_finished(ssl_.get()) == 1) {
    ERR_clear_error();
    // Best effort: a full socket buffer loses the closing alert, not an answer.
    (void)SSL_shutdown(ssl_.get());
  }
  ::shutdown(fd_, SHUT_WR);
}

}  // namespace nanoflow
