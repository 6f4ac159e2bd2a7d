#include "server/http_tls.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include <openssl/err.h>

#include "base/error.h"

namespace nanoflow {
namespace {

std::string tls_reason() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason != nullptr ? reason : "unknown error";
}

void check_readable(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  // A folder opens but does not read.
  if (!file || file.peek() == std::ifstream::traits_type::eof())
    throw IoError(path, errno != 0 ? std::strerror(errno) : "is empty");
}

// The default would ask at the terminal.
int refuse_passphrase(char* /*into*/, int /*size*/, int /*writing*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

int select_protocol(SSL* /*ssl*/, const unsigned char** chosen, unsigned char* chosen_size,
                    const unsigned char* offered, unsigned offered_size, void* /*unused*/) {
  constexpr std::string_view kHttp11 = "http/1.1";
  const std::string_view list(reinterpret_cast<const char*>(offered), offered_size);
  for (size_t i = 0; i < list.size();) {
    const size_t size = offered[i];
    if (list.substr(i + 1, size) == kHttp11) {
      *chosen = offered + i + 1;
      *chosen_size = static_cast<unsigned char>(size);
      return SSL_TLSEXT_ERR_OK;
    }
    i += 1 + size;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

void load_certificate(SSL_CTX* context, const std::string& path) {
  check_readable(path);
  if (SSL_CTX_use_certificate_chain_file(context, path.c_str()) != 1)
    throw FormatError(path, "is no certificate chain in PEM format (" + tls_reason() + ")");
}

void load_key(SSL_CTX* context, const std::string& path, const std::string& certificate) {
  check_readable(path);
  bool asked = false;
  SSL_CTX_set_default_passwd_cb(context, refuse_passphrase);
  SSL_CTX_set_default_passwd_cb_userdata(context, &asked);
  const bool loaded = SSL_CTX_use_PrivateKey_file(context, path.c_str(), SSL_FILETYPE_PEM) == 1;
  SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
  if (asked)
    throw FormatError(path, "is encrypted; give a key without passphrase (openssl pkey -in ...)");
  // Loading compares the key with the certificate that is there already.
  const int reason = ERR_GET_REASON(ERR_peek_last_error());
  if (!loaded && (reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH))
    throw FormatError(path, "is not the key of the certificate in " + certificate);
  if (!loaded) throw FormatError(path, "is no private key in PEM format (" + tls_reason() + ")");
  if (SSL_CTX_check_private_key(context) != 1)
    throw FormatError(path, "is not the key of the certificate in " + certificate);
}

}  // namespace

SslContext make_tls_context(const std::string& certificate, const std::string& key) {
  ERR_clear_error();
  SslContext context(SSL_CTX_new(TLS_server_method()));
  if (!context) throw EnvironmentError("OpenSSL cannot serve TLS: " + tls_reason());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_RENEGOTIATION |
                                         SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
  // Partial writes and moving buffers because output is one growing string; released buffers
  // because most connections are idle most of the time.
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                      SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_alpn_select_cb(context.get(), select_protocol, nullptr);
  load_certificate(context.get(), certificate);
  load_key(context.get(), key, certificate);
  return context;
}

}  // namespace nanoflow
