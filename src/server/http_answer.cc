// A connection's writing side.
#include <utility>

#include <sys/socket.h>

#include "server/http_connection.h"
#include "server/http_loop.h"

namespace nanoflow {

void HttpConnection::respond(HttpResponse response) {
  if (state_ != State::kAnswering) return;
  answer_begun_ = answer_ended_ = true;
  append_response(checked(std::move(response)), HttpFraming::kLength);
  flush_soon();
}

void HttpConnection::begin_stream(HttpResponse head) {
  if (state_ != State::kAnswering) return;
  answer_begun_ = true;
  if (!is_valid_head(head)) {
    append_response(checked(std::move(head)), HttpFraming::kLength);
    drops_body_ = true;  // what is streamed belongs to the head that was not sent
  } else if (form_.is_http10) {
    form_.keep_alive = false;
    append_response(head, HttpFraming::kToEnd);
  } else {
    append_response(head, HttpFraming::kChunked);
  }
  flush_soon();
}

void HttpConnection::write(std::string_view bytes) {
  if (state_ != State::kAnswering || drops_body_) return;
  pending_ += bytes;
  if (!is_writable_watched_) return flush_soon();
  if (backlog() > static_cast<size_t>(loop_->shared().options.max_buffered_bytes)) cut_off();
}

void HttpConnection::end_stream() {
  if (state_ != State::kAnswering) return;
  answer_ended_ = true;
  if (!is_writable_watched_) flush_soon();
}

void HttpConnection::set_on_closed(std::function<void()> task) {
  if (state_ == State::kClosed) {
    loop_->post(std::move(task));
  } else {
    on_closed_ = std::move(task);
  }
}

void HttpConnection::abandon() {
  if (state_ != State::kAnswering) return;
  if (answer_begun_) return close();
  respond(loop_->shared().handler.refusal(500, "The request was not answered."));
}

// An answer whose head cannot be sent as it is becomes a 500.
HttpResponse HttpConnection::checked(HttpResponse response) {
  if (is_valid_head(response)) return response;
  HttpShared& shared = loop_->shared();
  shared.logger.error("an answer to {} had an invalid head (status {}); sent 500 instead", peer_,
                      response.status);
  HttpResponse instead = shared.handler.refusal(500, "The answer could not be sent.");
  if (!is_valid_head(instead)) instead = {};
  instead.status = 500;
  return instead;
}

void HttpConnection::append_response(const HttpResponse& response, HttpFraming framing) {
  const bool has_body = !form_.is_head && !has_no_body(response.status);
  if (loop_->shared().draining.load(std::memory_order_relaxed)) form_.keep_alive = false;
  framing_ = framing;
  drops_body_ = !has_body;
  HttpHeadForm form;
  form.framing = has_no_body(response.status) ? HttpFraming::kLength : framing;
  form.body_bytes = response.body.size();
  form.keep_alive = form_.keep_alive;
  form.is_http10 = form_.is_http10;
  form.date = loop_->date();
  append_head(out_, response, form);
  if (!has_body) return;
  (framing == HttpFraming::kChunked ? pending_ : out_) += response.body;
}

size_t HttpConnection::backlog() const {
  return out_.size() - sent_ + pending_.size();
}

void HttpConnection::flush_soon() {
  if (is_flush_due_ || is_writable_watched_) return;
  is_flush_due_ = true;
  loop_->flush_soon(shared_from_this());
}

// Everything that has been written since the last time becomes one chunk.
void HttpConnection::frame_pending() {
  if (framing_ == HttpFraming::kChunked) {
    append_chunk(out_, pending_);
    if (answer_ended_ && !drops_body_) {
      out_ += kLastChunk;
      framing_ = HttpFraming::kLength;  // nothing follows
    }
  } else {
    out_ += pending_;
  }
  pending_.clear();
}

void HttpConnection::flush() {
  is_flush_due_ = false;
  if (state_ == State::kClosed || state_ == State::kHandshake) return;
  bool progressed = false;
  while (true) {
    if (sent_ == out_.size()) {
      out_.clear();
      sent_ = 0;
      frame_pending();
      if (out_.empty()) break;
    }
    const IoResult result = transport_.write(std::string_view(out_).substr(sent_));
    if (result.status == IoStatus::kEnd || result.status == IoStatus::kFailed) return close();
    if (result.status != IoStatus::kDone) return blocked(progressed);
    sent_ += result.bytes;
    progressed = true;
  }
  sent_everything();
}

void HttpConnection::blocked(bool progressed) {
  const HttpOptions& options = loop_->shared().options;
  if (state_ == State::kAnswering && framing_ != HttpFraming::kLength &&
      backlog() > static_cast<size_t>(options.max_buffered_bytes))
    return cut_off();
  if (sent_ > out_.size() / 2) {
    out_.erase(0, sent_);
    sent_ = 0;
  }
  const bool is_answer = state_ == State::kAnswering || state_ == State::kClosing;
  if (is_answer && (progressed || deadline_ == kNever)) set_timeout(options.write_timeout);
  watch_writable();
}

void HttpConnection::watch_writable() {
  if (is_writable_watched_ || state_ == State::kClosed) return;
  is_writable_watched_ = true;
  socket_.async_wait(boost::asio::posix::stream_descriptor::wait_write,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       self->is_writable_watched_ = false;
                       if (error == boost::asio::error::operation_aborted) return;
                       self->flush();
                       // TLS may have had to write before it could read on.
                       if (!self->is_readable_watched_) self->receive();
                     });
}

void HttpConnection::cut_off() {
  loop_->shared().cut_off += 1;
  // What the kernel still holds for a client that does not read is dropped with the connection.
  const struct linger at_once { 1, 0 };
  ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close();
}

void HttpConnection::sent_everything() {
  if (state_ == State::kClosing) return linger();
  if (state_ != State::kAnswering) return;
  set_deadline(kNever);
  if (!answer_ended_) return;
  on_closed_ = nullptr;
  out_ = {};
  pending_ = {};
  if (!form_.keep_alive) return linger();
  next_request();
}

void HttpConnection::next_request() {
  state_ = State::kIdle;
  set_timeout(loop_->shared().options.idle_timeout);
  if (!in_.empty()) parse({});
  if (!is_readable_watched_) receive();
}

// Closing with unread bytes would reset the connection and could destroy the answer on its way, so
// the rest of what the client sends is read and thrown away.
void HttpConnection::linger() {
  transport_.shutdown_sending();
  state_ = State::kLingering;
  in_ = {};
  linger_until_ = Clock::now() + kLingerTotal;
  set_timeout(kLingerQuiet);
  if (!is_readable_watched_) receive();
}

}  // namespace nanoflow
