// TLS settings of the server. Internal to http*.cc.
#pragma once

#include <string>

#include <boost/asio/ssl/context.hpp>

namespace nanoflow {

/// TLS 1.2 and later, ALPN http/1.1. Throws IoError or FormatError naming the file that is
/// unreadable, no PEM, or a key that is not the certificate's.
boost::asio::ssl::context make_tls_context(const std::string& certificate, const std::string& key);

}  // namespace nanoflow
