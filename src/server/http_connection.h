// One client's connection: reads requests one after the other, sends their answers, keeps every
// limit and timeout. All on one thread of the server.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "server/http.h"
#include "server/http_message.h"
#include "server/http_parser.h"
#include "server/http_transport.h"

namespace nanoflow {

class HttpLoop;

/// Shared by its thread's list, the waits under way and the exchange that answers. Any thread may
/// construct and destroy; everything else happens on the loop's thread.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  enum class Admission : uint8_t { kServe, kRefuse };

  /// Owns `fd`, which is non-blocking. kRefuse: it will be answered with 503.
  HttpConnection(std::shared_ptr<HttpLoop> loop, int fd, std::string peer, Admission admission);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  void start();
  void close_if_idle();
  /// At once; the answer's on_closed() task is posted if the answer was not sent whole.
  void close();
  /// Sends what waits, as far as the socket takes it.
  void flush();

  // The answer to the request that was handed to the handler last; nothing happens after close().
  void respond(HttpResponse response);
  void begin_stream(HttpResponse head);
  void write(std::string_view bytes);
  void end_stream();
  void set_on_closed(std::function<void()> task);
  /// Nobody is left to answer.
  void abandon();

  [[nodiscard]] const std::shared_ptr<HttpLoop>& loop() const { return loop_; }

  static constexpr size_t kNoSlot = SIZE_MAX;
  size_t slot = kNoSlot;  ///< place in the loop's list; the loop's alone

 private:
  using Clock = std::chrono::steady_clock;
  enum class State : uint8_t {
    kHandshake,
    kIdle,  // no byte of a request yet
    kHead,
    kBody,
    kAnswering,  // a handler has the request
    kClosing,    // the last bytes are being sent
    kLingering,  // all sent; what still comes is thrown away until the client closes
    kClosed,
  };
  static constexpr Clock::time_point kNever = Clock::time_point::max();
  // A client has this long to read a last answer while it is still sending, and this long to fall
  // silent (nginx: lingering_time, lingering_timeout).
  static constexpr std::chrono::seconds kLingerTotal{30};
  static constexpr std::chrono::seconds kLingerQuiet{5};

  // Reading.
  void receive();
  void shake_hands();
  void begin_serving();
  void take(std::string_view bytes);
  void parse(std::string_view bytes);
  void hand_over();
  void refuse(int status, const std::string& message);
  void watch_readable();
  [[nodiscard]] bool may_read() const;

  // Writing.
  void append_response(const HttpResponse& response, HttpFraming framing);
  [[nodiscard]] HttpResponse checked(HttpResponse response);
  void frame_pending();
  void flush_soon();
  void blocked(bool progressed);
  [[nodiscard]] size_t backlog() const;
  void cut_off();
  void sent_everything();
  void next_request();
  void linger();
  void watch_writable();

  // Time.
  void set_deadline(Clock::time_point at);
  void set_timeout(std::chrono::milliseconds timeout);
  void arm_timer();
  void deadline_passed();
  void uncount();

  std::shared_ptr<HttpLoop> loop_;
  boost::asio::posix::stream_descriptor socket_;
  HttpTransport transport_;
  boost::asio::steady_timer timer_;
  std::string peer_;
  std::unique_ptr<HttpParser> parser_;  // kHead and kBody
  std::string in_;                      // bytes that no parser has taken yet
  std::string out_;                     // framed bytes, sent up to sent_
  std::string pending_;                 // a stream's bytes that are not framed yet
  size_t sent_ = 0;
  std::function<void()> on_closed_;
  Clock::time_point deadline_ = kNever;
  Clock::time_point armed_until_ = kNever;
  Clock::time_point linger_until_ = kNever;

  State state_ = State::kIdle;
  Admission admission_;
  HttpAnswerForm form_;
  HttpFraming framing_ = HttpFraming::kLength;
  bool has_served_ = false;  // at least one request
  bool answer_begun_ = false;
  bool answer_ended_ = false;
  bool drops_body_ = false;  // HEAD, 204, or a head that could not be sent
  bool is_readable_watched_ = false;
  bool is_writable_watched_ = false;
  bool is_flush_due_ = false;
  bool is_counted_ = true;
};

}  // namespace nanoflow
