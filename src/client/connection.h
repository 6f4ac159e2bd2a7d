// One connection of the load client, plain or TLS, as coroutines of Asio.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>  // also for awaitable.hpp of Boost 1.74, which forgets it

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/flat_buffer.hpp>

namespace nanoflow {

/// Gets an answer as it comes.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  virtual void on_status(int status) = 0;
  /// False: the rest is not wanted.
  virtual bool on_body(std::string_view bytes) = 0;
};

class Connection {
 public:
  using Endpoints = boost::asio::ip::tcp::resolver::results_type;

  /// Connects to one of `endpoints`; `tls` null: plain. `host` is whose certificate is expected.
  /// Everything here throws boost::system::system_error.
  Connection(boost::asio::io_context& io, boost::asio::ssl::context* tls);
  [[nodiscard]] boost::asio::awaitable<void> open(const Endpoints& endpoints,
                                                  const std::string& host);
  /// Sends a request and hands its answer to `sink`.
  [[nodiscard]] boost::asio::awaitable<void> exchange(const std::string& request, AnswerSink& sink);
  /// Whether another request may follow.
  [[nodiscard]] bool is_reusable() const { return is_reusable_; }

 private:
  template <typename Stream>
  boost::asio::awaitable<void> exchange_on(Stream& stream, const std::string& request,
                                           AnswerSink& sink);

  // A plain connection is the TLS one's lower layer.
  std::optional<boost::asio::ip::tcp::socket> plain_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket>> tls_;
  boost::beast::flat_buffer buffer_{kMaxBuffered};
  bool is_reusable_ = false;

  static constexpr size_t kMaxBuffered = 16384;  // of an answer: header or some of its body
};

}  // namespace nanoflow
