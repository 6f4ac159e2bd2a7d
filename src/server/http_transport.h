// The bytes of one connection: a non-blocking socket, plain or with TLS. Nothing here waits, and
// nothing here knows HTTP; who calls waits for what the result names and calls again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <openssl/ssl.h>

namespace nanoflow {

enum class IoStatus : uint8_t {
  kDone,       ///< `bytes` were moved
  kWantRead,   ///< call again when the socket is readable
  kWantWrite,  ///< call again when the socket is writable
  kEnd,        ///< the peer has shut down its sending side
  kFailed,     ///< the connection is broken
};

struct IoResult {
  IoStatus status = IoStatus::kDone;
  size_t bytes = 0;
};

struct SslDeleter {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

/// One thread at a time. Does not own the socket.
class HttpTransport {
 public:
  /// `fd` is non-blocking; `tls` null means plain bytes.
  HttpTransport(int fd, SSL_CTX* tls);

  [[nodiscard]] bool has_tls() const { return ssl_ != nullptr; }
  /// TLS only: kDone when the connection may be used.
  [[nodiscard]] IoResult handshake();
  [[nodiscard]] IoResult read(std::span<char> into);
  /// Bytes that were refused must come first in the next call (TLS has encrypted them already).
  [[nodiscard]] IoResult write(std::string_view bytes);
  /// Tells the peer that nothing more will come.
  void shutdown_sending();

 private:
  [[nodiscard]] IoResult tls_result(int returned);

  int fd_;
  std::unique_ptr<SSL, SslDeleter> ssl_;
};

}  // namespace nanoflow
