// A connection's reading side, its states and its deadlines; http_answer.cc has the writing side.
#include "server/http_connection.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <boost/asio/post.hpp>

#include "server/http_exchange.h"
#include "server/http_loop.h"

namespace nanoflow {
namespace {

// Then others have their turn.
constexpr int kReadsPerTurn = 16;

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<HttpLoop> loop, int fd, std::string peer,
                               Admission admission)
    : loop_(std::move(loop)),
      socket_(loop_->context(), fd),
      transport_(fd, loop_->shared().tls.get()),
      timer_(loop_->context()),
      peer_(std::move(peer)),
      admission_(admission) {
  HttpShared& shared = loop_->shared();
  (admission_ == Admission::kServe ? shared.open : shared.being_refused) += 1;
  loop_->count_connection(1);
}

HttpConnection::~HttpConnection() {
  uncount();
}

void HttpConnection::uncount() {
  if (!std::exchange(is_counted_, false)) return;
  HttpShared& shared = loop_->shared();
  (admission_ == Admission::kServe ? shared.open : shared.being_refused) -= 1;
  loop_->count_connection(-1);
}

void HttpConnection::start() {
  loop_->add(shared_from_this());
  set_timeout(loop_->shared().options.header_timeout);
  if (transport_.has_tls()) {
    state_ = State::kHandshake;
    shake_hands();
  } else {
    begin_serving();
  }
}

void HttpConnection::shake_hands() {
  switch (transport_.handshake().status) {
    case IoStatus::kDone: return begin_serving();
    case IoStatus::kWantRead: return watch_readable();
    case IoStatus::kWantWrite: return watch_writable();
    default: return close();
  }
}

void HttpConnection::begin_serving() {
  state_ = State::kIdle;
  if (admission_ == Admission::kRefuse)
    refuse(503, "The server has as many connections as it may have; try again later.");
  receive();
}

bool HttpConnection::may_read() const {
  if (state_ == State::kClosed) return false;
  // While an answer is made, reading goes on so that the client's going is seen; the requests that
  // come meanwhile wait here, but not without limit.
  return state_ != State::kAnswering ||
         in_.size() < static_cast<size_t>(loop_->shared().options.max_header_bytes);
}

void HttpConnection::receive() {
  if (state_ == State::kHandshake) return shake_hands();
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    if (!may_read()) return;
    const std::span<char> into = loop_->scratch();
    const IoResult result = transport_.read(into);
    switch (result.status) {
      case IoStatus::kDone: take({into.data(), result.bytes}); break;
      case IoStatus::kWantRead: return watch_readable();
      case IoStatus::kWantWrite: return watch_writable();
      case IoStatus::kEnd:
        // An answer that is complete is still sent; then the end is read again.
        if (state_ == State::kClosing || (state_ == State::kAnswering && answer_ended_)) return;
        return close();
      case IoStatus::kFailed: return close();
    }
  }
  boost::asio::post(loop_->context(), [self = shared_from_this()] { self->receive(); });
}

void HttpConnection::watch_readable() {
  if (is_readable_watched_ || state_ == State::kClosed) return;
  is_readable_watched_ = true;
  socket_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->is_readable_watched_ = false;
                       if (error != boost::asio::error::operation_aborted) self->receive();
                     });
}

void HttpConnection::take(std::string_view bytes) {
  switch (state_) {
    case State::kAnswering: in_ += bytes; break;
    case State::kClosing: break;
    case State::kLingering:
      set_deadline(std::min(linger_until_, Clock::now() + kLingerQuiet));
      break;
    default: parse(bytes);
  }
}

void HttpConnection::parse(std::string_view bytes) {
  std::string joined;
  if (!in_.empty()) {
    joined.swap(in_);
    joined += bytes;
    bytes = joined;
  }
  const HttpOptions& options = loop_->shared().options;
  while (true) {
    if (state_ == State::kIdle) {
      // Some clients end a body with a line end that they do not count (RFC 9112, 2.2).
      bytes.remove_prefix(std::min(bytes.find_first_not_of("\r\n"), bytes.size()));
      if (bytes.empty()) return;
      state_ = State::kHead;
      parser_ =
          std::make_unique<HttpParser>(HttpLimits{static_cast<size_t>(options.max_header_bytes),
                                                  static_cast<uint64_t>(options.max_body_bytes)});
      if (has_served_) set_timeout(options.header_timeout);
    }
    size_t used = 0;
    const HttpParser::Progress progress = parser_->feed(bytes, used);
    bytes.remove_prefix(used);
    switch (progress) {
      case HttpParser::Progress::kNeedMore: in_ = bytes; return;
      case HttpParser::Progress::kHead:
        state_ = State::kBody;
        set_timeout(options.body_timeout);
        if (parser_->expects_continue() && bytes.empty()) {
          out_ += "HTTP/1.1 100 Continue\r\n\r\n";
          flush_soon();
        }
        break;
      case HttpParser::Progress::kDone: in_ = bytes; return hand_over();
      case HttpParser::Progress::kRefused:
        form_ = parser_->answer_form();
        return refuse(parser_->refused_status(), parser_->refused_message());
    }
  }
}

void HttpConnection::hand_over() {
  form_ = parser_->answer_form();
  HttpRequest request = parser_->take_request();
  request.peer = peer_;
  parser_.reset();
  state_ = State::kAnswering;
  has_served_ = true;
  answer_begun_ = answer_ended_ = drops_body_ = false;
  set_deadline(kNever);
  loop_->shared().handler.handle(std::move(request), make_exchange(shared_from_this()));
}

void HttpConnection::refuse(int status, const std::string& message) {
  HttpShared& shared = loop_->shared();
  if (status != 503) shared.malformed += 1;
  in_ = {};
  form_.keep_alive = false;
  state_ = State::kClosing;
  set_deadline(kNever);
  append_response(checked(shared.handler.refusal(status, message)), HttpFraming::kLength);
  parser_.reset();  // only now: it may own `message`
  flush_soon();
}

void HttpConnection::close_if_idle() {
  // A request may have arrived that nobody has read yet.
  if (state_ == State::kIdle) receive();
  if (state_ == State::kIdle) close();
}

void HttpConnection::close() {
  if (state_ == State::kClosed) return;
  const bool was_answering = state_ == State::kAnswering;
  state_ = State::kClosed;
  timer_.cancel();
  boost::system::error_code ignored;
  socket_.close(ignored);
  parser_.reset();
  in_ = {};
  out_ = {};
  pending_ = {};
  if (was_answering && on_closed_) loop_->post(std::move(on_closed_));
  on_closed_ = nullptr;
  uncount();
  loop_->remove(*this);
}

void HttpConnection::set_timeout(std::chrono::milliseconds timeout) {
  set_deadline(Clock::now() + timeout);
}

// Deadlines move far more often than they pass, so the timer is set anew only when it would fire
// too late.
void HttpConnection::set_deadline(Clock::time_point at) {
  deadline_ = at;
  if (deadline_ < armed_until_) arm_timer();
}

void HttpConnection::arm_timer() {
  armed_until_ = deadline_;
  timer_.expires_at(deadline_);
  timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
    if (error || self->state_ == State::kClosed) return;
    self->armed_until_ = kNever;
    if (self->deadline_ == kNever) return;
    if (Clock::now() < self->deadline_) return self->arm_timer();
    self->deadline_passed();
  });
}

void HttpConnection::deadline_passed() {
  deadline_ = kNever;
  switch (state_) {
    case State::kIdle:
      if (has_served_) return linger();
      [[fallthrough]];
    case State::kHead: return refuse(408, "The request's head took too long.");
    case State::kBody: return refuse(408, "The request's body took too long.");
    case State::kAnswering:
    case State::kClosing: return cut_off();
    default: close();
  }
}

}  // namespace nanoflow
