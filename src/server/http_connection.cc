#include "server/http_connection.h"

#include <array>
#include <ctime>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include "base/check.h"
#include "server/http_text.h"

namespace nanoflow {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using TlsStream = asio::ssl::stream<tcp::socket>;

// What an idle connection keeps for the next request's first bytes.
constexpr size_t kFirstBytes = 512;
constexpr size_t kScrapBytes = 64 << 10;
// How long the rest of a refused request is read, so that its sender sees the answer.
constexpr std::chrono::seconds kLinger{5};
constexpr std::chrono::milliseconds kNoDeadline{-1};

tcp::socket& socket_of(tcp::socket& stream) {
  return stream;
}
tcp::socket& socket_of(TlsStream& stream) {
  return stream.next_layer();
}

/// One request's answer, as its handler holds it.
class Exchange final : public HttpExchange {
 public:
  explicit Exchange(const std::shared_ptr<Connection>& connection)
      : thread_(connection->thread()), connection_(connection) {}
  ~Exchange() override {
    if (answered_) return;
    thread_.post([connection = connection_] {
      if (const auto alive = connection.lock()) alive->unanswered();
    });
  }

  HttpThread& thread() override { return thread_; }
  void respond(HttpResponse response) override {
    answered_ = true;
    if (const auto alive = connection_.lock()) alive->respond(std::move(response));
  }
  void begin_stream(HttpResponse head) override {
    if (const auto alive = connection_.lock()) alive->begin_stream(std::move(head));
  }
  void write(std::string_view bytes) override {
    if (const auto alive = connection_.lock()) alive->write(bytes);
  }
  void end_stream() override {
    answered_ = true;
    if (const auto alive = connection_.lock()) alive->end_stream();
  }
  void on_closed(std::function<void()> task) override {
    if (const auto alive = connection_.lock()) return alive->on_closed(std::move(task));
    thread_.post(std::move(task));
  }

 private:
  IoThread& thread_;
  std::weak_ptr<Connection> connection_;
  bool answered_ = false;
};

enum class State : uint8_t {
  kIdle,       ///< between requests
  kReading,    ///< a head or a body
  kAnswering,  ///< a handler has the request
  kLingering,  ///< refused; what still comes is thrown away
  kClosed,
};

template <typename Stream>
class ConnectionOver final : public Connection {
 public:
  ConnectionOver(HttpShared& shared, IoThread& thread, Stream stream)
      : Connection(shared, thread), stream_(std::move(stream)), timer_(thread.loop()) {
    error_code ignored;
    socket_of(stream_).set_option(tcp::no_delay(true), ignored);
    socket_of(stream_).non_blocking(true, ignored);
  }

  void start(bool refuse) override;
  void close_if_idle() override {
    if (state_ == State::kIdle) close();
  }
  void close() override;
  void respond(HttpResponse response) override;
  void begin_stream(HttpResponse head) override;
  void write(std::string_view bytes) override;
  void end_stream() override;
  void on_closed(std::function<void()> task) override;
  void unanswered() override;

 private:
  std::shared_ptr<ConnectionOver> self() {
    return std::static_pointer_cast<ConnectionOver>(shared_from_this());
  }

  void wait_for_request();
  void read_first_bytes();
  void on_first_bytes(const error_code& error);
  void read_head();
  void on_head(const error_code& error);
  void read_body();
  void refuse_error(const error_code& error);
  void refuse(int status, const std::string& message);
  void handle_request();
  void linger();

  void flush();
  void on_written(const error_code& error, size_t bytes);
  void answer_sent();

  void set_deadline(std::chrono::milliseconds after);
  void watch_deadline();
  void on_deadline();
  void cut_off();

  Stream stream_;
  asio::steady_timer timer_;
  std::optional<Clock::time_point> deadline_;
  bool watching_ = false;  // the timer runs
  State state_ = State::kIdle;
  bool has_served_ = false;  // a request has been answered

  beast::flat_buffer buffer_;  // bytes behind what has been parsed
  bool reading_ = false;       // read_first_bytes() is under way
  std::optional<http::request_parser<http::string_body>> parser_;

  // Of the request that is being answered.
  bool head_only_ = false;
  bool keep_alive_ = false;
  unsigned version_ = 11;
  bool begun_ = false;  // a stream's head is on its way
  bool ended_ = false;  // nothing more will be written
  Framing framing_ = Framing::kLength;
  std::function<void()> on_closed_;

  std::string pending_;  // to be sent after what is under way; framed when it leaves
  std::string raw_;      // the same, sent before pending_ and as it is
  std::string sending_;  // under way
  size_t sent_ = 0;      // of it
  std::string scrap_;    // what a refused client still sends
};

template <typename Stream>
void ConnectionOver<Stream>::start(bool refuse_it) {
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    if (refuse_it) return close();
    state_ = State::kReading;
    set_deadline(shared_.options.header_timeout);
    stream_.async_handshake(asio::ssl::stream_base::server,
                            [self = self()](const error_code& error) {
                              if (self->state_ == State::kClosed) return;
                              if (error) return self->close();
                              self->wait_for_request();
                            });
  } else {
    if (refuse_it) return refuse(503, "too many connections");
    wait_for_request();
  }
}

template <typename Stream>
void ConnectionOver<Stream>::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  deadline_.reset();
  error_code ignored;
  timer_.cancel(ignored);
  socket_of(stream_).close(ignored);
  thread_.connections().erase(this);
  --shared_.open;
  // Not at once: whoever wrote what failed may still be on the stack.
  if (on_closed_) thread_.post(std::exchange(on_closed_, nullptr));
}

template <typename Stream>
void ConnectionOver<Stream>::wait_for_request() {
  // A new client still gets its answer, if only that the server is shutting down.
  if (shared_.draining && has_served_ && buffer_.size() == 0) return close();
  state_ = State::kIdle;
  parser_.reset();
  if (buffer_.size() > 0) return read_head();
  if (!reading_) buffer_.shrink_to_fit();
  set_deadline(shared_.options.idle_timeout);
  read_first_bytes();
}

/// Reads while nothing is expected: the first bytes of a request, or the news that the client has
/// gone.
template <typename Stream>
void ConnectionOver<Stream>::read_first_bytes() {
  if (reading_) return;
  reading_ = true;
  stream_.async_read_some(buffer_.prepare(kFirstBytes),
                          [self = self()](const error_code& error, size_t bytes) {
                            self->reading_ = false;
                            self->buffer_.commit(bytes);
                            self->on_first_bytes(error);
                          });
}

template <typename Stream>
void ConnectionOver<Stream>::on_first_bytes(const error_code& error) {
  if (state_ != State::kIdle && state_ != State::kAnswering) return;
  if (error) return close();
  if (state_ == State::kIdle) read_head();
}

template <typename Stream>
void ConnectionOver<Stream>::read_head() {
  state_ = State::kReading;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(shared_.options.max_header_bytes));
  parser_->body_limit(static_cast<uint64_t>(shared_.options.max_body_bytes));
  set_deadline(shared_.options.header_timeout);
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = self()](const error_code& error, size_t) {
                            if (self->state_ == State::kReading) self->on_head(error);
                          });
}

template <typename Stream>
void ConnectionOver<Stream>::on_head(const error_code& error) {
  if (error) return refuse_error(error);
  const auto& head = parser_->get();
  const auto expect = head[http::field::expect];
  if (!expect.empty()) {
    if (!equal_ignoring_case({expect.data(), expect.size()}, "100-continue"))
      return refuse(417, "unknown expectation");
    if (!parser_->is_done() && buffer_.size() == 0) {
      raw_ = "HTTP/1.1 100 Continue\r\n\r\n";
      flush();
    }
  }
  if (parser_->is_done()) return handle_request();
  read_body();
}

template <typename Stream>
void ConnectionOver<Stream>::read_body() {
  set_deadline(shared_.options.body_timeout);
  http::async_read(stream_, buffer_, *parser_, [self = self()](const error_code& error, size_t) {
    if (self->state_ != State::kReading) return;
    if (error) return self->refuse_error(error);
    self->handle_request();
  });
}

template <typename Stream>
void ConnectionOver<Stream>::refuse_error(const error_code& error) {
  if (error == http::error::end_of_stream) return close();
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return refuse(431, fmt::format("the request's head is larger than {} bytes",
                                   shared_.options.max_header_bytes));
  if (error == http::error::body_limit)
    return refuse(413, fmt::format("the request's body is larger than {} bytes",
                                   shared_.options.max_body_bytes));
  if (error.category() == http::make_error_code(http::error::bad_method).category() &&
      error != http::error::partial_message)
    return refuse(400, fmt::format("this is no HTTP: {}", error.message()));
  close();  // the client has gone
}

template <typename Stream>
void ConnectionOver<Stream>::refuse(int status, const std::string& message) {
  ++shared_.malformed;
  const HttpResponse response = shared_.handler.refusal(status, message);
  raw_ = answer_head(response, Framing::kLength, false, std::time(nullptr)) + response.body;
  ended_ = true;
  state_ = State::kLingering;
  set_deadline(kLinger);
  flush();
}

template <typename Stream>
void ConnectionOver<Stream>::handle_request() {
  HttpRequest request;
  auto message = parser_->release();
  head_only_ = message.method() == http::verb::head;
  keep_alive_ = message.keep_alive();
  version_ = message.version();
  if (!split_target({message.target().data(), message.target().size()}, request.path,
                    request.query))
    return refuse(400, "the request's target is malformed");
  request.method = {message.method_string().data(), message.method_string().size()};
  for (const auto& field : message)
    request.headers.push_back({{field.name_string().data(), field.name_string().size()},
                               {field.value().data(), field.value().size()}});
  request.body = std::move(message.body());
  error_code ignored;
  const auto peer = socket_of(stream_).remote_endpoint(ignored);
  request.peer = fmt::format("{}:{}", peer.address().to_string(ignored), peer.port());
  state_ = State::kAnswering;
  begun_ = ended_ = false;
  set_deadline(kNoDeadline);
  // A pipelined request's bytes hide whether the client is still there.
  if (buffer_.size() == 0) read_first_bytes();
  shared_.handler.handle(std::move(request), std::make_shared<Exchange>(shared_from_this()));
}

/// Reads on without looking, below TLS: closing a socket with unread bytes would tell the client
/// "connection reset" instead of the answer.
template <typename Stream>
void ConnectionOver<Stream>::linger() {
  error_code ignored;
  socket_of(stream_).shutdown(tcp::socket::shutdown_send, ignored);
  scrap_.resize(kScrapBytes);
  socket_of(stream_).async_read_some(asio::buffer(scrap_),
                                     [self = self()](const error_code& error, size_t) {
                                       if (self->state_ != State::kLingering) return;
                                       if (error) return self->close();
                                       self->linger();
                                     });
}

template <typename Stream>
void ConnectionOver<Stream>::respond(HttpResponse response) {
  if (state_ != State::kAnswering) return;
  NANO_CHECK(!begun_ && !ended_, "a request is answered twice");
  keep_alive_ = keep_alive_ && !shared_.draining;
  raw_ += answer_head(response, Framing::kLength, keep_alive_, std::time(nullptr));
  if (!head_only_) raw_ += response.body;
  ended_ = true;
  set_deadline(shared_.options.write_timeout);
  flush();
}

template <typename Stream>
void ConnectionOver<Stream>::begin_stream(HttpResponse head) {
  if (state_ != State::kAnswering) return;
  NANO_CHECK(!begun_ && !ended_, "a request is answered twice");
  begun_ = true;
  framing_ = version_ >= 11 ? Framing::kChunked : Framing::kClose;
  keep_alive_ = keep_alive_ && framing_ == Framing::kChunked && !shared_.draining;
  raw_ += answer_head(head, framing_, keep_alive_, std::time(nullptr));
  pending_ += head.body;
  flush();
}

template <typename Stream>
void ConnectionOver<Stream>::write(std::string_view bytes) {
  if (state_ != State::kAnswering) return;
  NANO_CHECK(begun_ && !ended_, "written outside a stream");
  pending_ += bytes;
  flush();
  if (state_ == State::kAnswering &&
      pending_.size() > static_cast<size_t>(shared_.options.max_buffered_bytes))
    cut_off();
}

template <typename Stream>
void ConnectionOver<Stream>::end_stream() {
  if (state_ != State::kAnswering) return;
  NANO_CHECK(begun_ && !ended_, "a stream ends twice");
  ended_ = true;
  flush();
}

template <typename Stream>
void ConnectionOver<Stream>::on_closed(std::function<void()> task) {
  if (state_ == State::kClosed) return thread_.post(std::move(task));
  on_closed_ = std::move(task);
}

template <typename Stream>
void ConnectionOver<Stream>::unanswered() {
  if (state_ != State::kAnswering || ended_) return;
  if (begun_) return close();
  respond(shared_.handler.refusal(500, "the request was dropped"));
}

/// Sends what waits, unless something is under way: then that one's end does.
template <typename Stream>
void ConnectionOver<Stream>::flush() {
  if (sent_ < sending_.size()) return;
  const bool last = ended_ && begun_;
  if (raw_.empty() && pending_.empty() && !last) return;
  sending_.clear();
  sent_ = 0;
  sending_.swap(raw_);
  if (!pending_.empty()) {
    if (framing_ == Framing::kChunked) {
      fmt::format_to(std::back_inserter(sending_), "{:x}\r\n", pending_.size());
      sending_ += pending_;
      sending_ += "\r\n";
    } else {
      sending_ += pending_;
    }
    pending_.clear();
  }
  if (last && framing_ == Framing::kChunked) sending_ += "0\r\n\r\n";
  if (last) begun_ = false;
  if constexpr (std::is_same_v<Stream, tcp::socket>) {
    // Nearly always the socket takes it all at once; then nothing is allocated and nobody waits.
    error_code error;
    sent_ = stream_.write_some(asio::buffer(sending_), error);
    if (error && error != asio::error::would_block && error != asio::error::try_again)
      return close();
  }
  if (sent_ == sending_.size()) return answer_sent();
  if (state_ != State::kLingering) set_deadline(shared_.options.write_timeout);
  stream_.async_write_some(
      asio::buffer(sending_.data(), sending_.size()) + sent_,
      [self = self()](const error_code& error, size_t bytes) { self->on_written(error, bytes); });
}

template <typename Stream>
void ConnectionOver<Stream>::on_written(const error_code& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) return close();
  sent_ += bytes;
  if (sent_ < sending_.size()) {
    if (state_ != State::kLingering) set_deadline(shared_.options.write_timeout);
    stream_.async_write_some(
        asio::buffer(sending_.data(), sending_.size()) + sent_,
        [self = self()](const error_code& again, size_t more) { self->on_written(again, more); });
    return;
  }
  answer_sent();
}

/// Everything that was handed over has gone out.
template <typename Stream>
void ConnectionOver<Stream>::answer_sent() {
  if (!raw_.empty() || !pending_.empty() || (ended_ && begun_)) return flush();
  if (state_ == State::kReading) return;  // "100 Continue"
  if (!ended_) return set_deadline(kNoDeadline);
  sending_.clear();
  if (state_ == State::kLingering) return linger();
  on_closed_ = nullptr;
  has_served_ = true;
  if (keep_alive_) {
    sending_.shrink_to_fit();
    pending_.shrink_to_fit();
    raw_.shrink_to_fit();
    // Not at once: a handler's call may still be on the stack.
    return thread_.post([self = self()] {
      if (self->state_ == State::kAnswering) self->wait_for_request();
    });
  }
  state_ = State::kLingering;
  set_deadline(kLinger);
  linger();
}

template <typename Stream>
void ConnectionOver<Stream>::set_deadline(std::chrono::milliseconds after) {
  if (after < std::chrono::milliseconds(0)) {
    deadline_.reset();
    return;
  }
  deadline_ = Clock::now() + after;
  // A timer that fires early looks again, so that a deadline which moves costs nothing.
  if (watching_ && timer_.expiry() <= *deadline_) return;
  watch_deadline();
}

template <typename Stream>
void ConnectionOver<Stream>::watch_deadline() {
  watching_ = true;
  timer_.expires_at(*deadline_);
  timer_.async_wait([self = this->weak_from_this()](const error_code& error) {
    const auto alive = std::static_pointer_cast<ConnectionOver>(self.lock());
    if (error || alive == nullptr || alive->state_ == State::kClosed) return;
    alive->watching_ = false;
    if (!alive->deadline_.has_value()) return;
    if (Clock::now() < *alive->deadline_) return alive->watch_deadline();
    alive->on_deadline();
  });
}

template <typename Stream>
void ConnectionOver<Stream>::on_deadline() {
  deadline_.reset();
  if (state_ == State::kReading && parser_.has_value()) {
    const char* what = parser_->is_header_done() ? "body" : "head";
    error_code ignored;
    socket_of(stream_).cancel(ignored);  // the read under way; the parser stays, which it may use
    return refuse(408, fmt::format("the request's {} did not come in time", what));
  }
  if (state_ == State::kAnswering) return cut_off();
  close();
}

template <typename Stream>
void ConnectionOver<Stream>::cut_off() {
  ++shared_.cut_off;
  close();
}

}  // namespace

Connection::Connection(HttpShared& shared, IoThread& thread) : shared_(shared), thread_(thread) {
  thread_.connections().insert(this);
  ++shared_.open;
}

Connection::~Connection() {
  thread_.connections().erase(this);
}

std::shared_ptr<Connection> make_connection(HttpShared& shared, IoThread& thread,
                                            tcp::socket socket, asio::ssl::context* tls) {
  if (tls == nullptr)
    return std::make_shared<ConnectionOver<tcp::socket>>(shared, thread, std::move(socket));
  return std::make_shared<ConnectionOver<TlsStream>>(shared, thread,
                                                     TlsStream(std::move(socket), *tls));
}

}  // namespace nanoflow
