#include "client/connection.h"

#include <array>
#include <cstdint>
#include <limits>

#include <boost/asio/connect.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http.hpp>

namespace nanoflow {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using boost::system::system_error;

Connection::Connection(asio::io_context& io, asio::ssl::context* tls) {
  if (tls != nullptr) {
    tls_.emplace(io, *tls);
  } else {
    plain_.emplace(io);
  }
}

asio::awaitable<void> Connection::open(const Endpoints& endpoints, const std::string& host) {
  asio::ip::tcp::socket& socket = tls_ ? tls_->next_layer() : *plain_;
  co_await asio::async_connect(socket, endpoints, asio::use_awaitable);
  socket.set_option(asio::ip::tcp::no_delay(true));
  if (!tls_) co_return;
  SSL_set_tlsext_host_name(tls_->native_handle(), host.c_str());
  tls_->set_verify_callback(asio::ssl::host_name_verification(host));
  co_await tls_->async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
}

asio::awaitable<void> Connection::exchange(const std::string& request, AnswerSink& sink) {
  is_reusable_ = false;
  if (tls_) {
    co_await exchange_on(*tls_, request, sink);
  } else {
    co_await exchange_on(*plain_, request, sink);
  }
}

template <typename Stream>
asio::awaitable<void> Connection::exchange_on(Stream& stream, const std::string& request,
                                              AnswerSink& sink) {
  co_await asio::async_write(stream, asio::buffer(request), asio::use_awaitable);
  http::response_parser<http::buffer_body> parser;
  // Not "none", which Boost 1.74 takes for less than any Content-Length.
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  co_await http::async_read_header(stream, buffer_, parser, asio::use_awaitable);
  sink.on_status(parser.get().result_int());
  std::array<char, 8192> bytes;
  while (!parser.is_done()) {
    auto& body = parser.get().body();
    body.data = bytes.data();
    body.size = bytes.size();
    body.more = true;
    error_code error;
    co_await http::async_read_some(stream, buffer_, parser,
                                   asio::redirect_error(asio::use_awaitable, error));
    if (!sink.on_body({bytes.data(), bytes.size() - body.size})) co_return;
    if (error && error != http::error::need_buffer) throw system_error(error);
  }
  is_reusable_ = parser.keep_alive();
}

}  // namespace nanoflow
