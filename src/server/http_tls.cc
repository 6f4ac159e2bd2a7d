#include "server/http_tls.h"

#include <unistd.h>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace nanoflow {
namespace {

namespace ssl = boost::asio::ssl;

void require_readable(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0) throw IoError(path, std::strerror(errno));
}

int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size,
                    const unsigned char* in, unsigned int in_size, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kOurs, sizeof(kOurs) - 1, in, in_size) !=
      OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_NOACK;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace

ssl::context make_tls_context(const std::string& certificate, const std::string& key) {
  require_readable(certificate);
  require_readable(key);
  ssl::context context(ssl::context::tls_server);
  context.set_options(ssl::context::no_sslv2 | ssl::context::no_sslv3 | ssl::context::no_tlsv1 |
                      ssl::context::no_tlsv1_1 | SSL_OP_CIPHER_SERVER_PREFERENCE |
                      SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_alpn_select_cb(context.native_handle(), choose_protocol, nullptr);
  boost::system::error_code error;
  context.use_certificate_chain_file(certificate, error);
  if (error) throw FormatError(certificate, "is no certificate chain in PEM form");
  context.use_private_key_file(key, ssl::context::pem, error);
  if (error) throw FormatError(key, "is no private key in PEM form that fits " + certificate);
  if (SSL_CTX_check_private_key(context.native_handle()) != 1)
    throw FormatError(key, "is not the key of " + certificate);
  return context;
}

}  // namespace nanoflow
