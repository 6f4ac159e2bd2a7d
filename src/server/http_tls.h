// The server's certificate and what TLS it speaks.
#pragma once

#include <memory>
#include <string>

#include <openssl/ssl.h>

namespace nanoflow {

struct SslContextDeleter {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslContext = std::unique_ptr<SSL_CTX, SslContextDeleter>;

/// TLS 1.2 and later, the server's order of ciphers, "http/1.1" by ALPN. Both are PEM files, the
/// certificate with its chain. Throws an EnvironmentError that names the file and what is wrong.
[[nodiscard]] SslContext make_tls_context(const std::string& certificate, const std::string& key);

}  // namespace nanoflow
