// From bytes to one HttpRequest; Boost.Beast parses behind it. What to do with
// requests and with refusals is the connection's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "server/http.h"

namespace nanoflow {

struct HttpLimits {
  size_t max_header_bytes = 0;
  uint64_t max_body_bytes = 0;
};

/// How the answer is to be framed; known as soon as the head is.
struct HttpAnswerForm {
  bool keep_alive = false;
  bool is_head = false;
  bool is_http10 = false;
};

/// Parses one request.
class HttpParser {
 public:
  enum class Progress : uint8_t {
    kNeedMore,  ///< what was not used must come again, followed by more
    kHead,      ///< the head is complete and a body follows
    kDone,      ///< the request is complete
    kRefused,   ///< refused_status(), refused_message()
  };

  explicit HttpParser(const HttpLimits& limits);
  ~HttpParser();
  HttpParser(const HttpParser&) = delete;
  HttpParser& operator=(const HttpParser&) = delete;

  /// Takes bytes from the front of `bytes`; `used` says how many.
  [[nodiscard]] Progress feed(std::string_view bytes, size_t& used);

  /// After kHead: the client waits for "100 Continue" before it sends the body.
  [[nodiscard]] bool expects_continue() const { return expects_continue_; }
  /// After kHead or kDone.
  [[nodiscard]] const HttpAnswerForm& answer_form() const { return form_; }
  /// After kDone, once.
  [[nodiscard]] HttpRequest take_request();

  [[nodiscard]] int refused_status() const { return refused_status_; }
  [[nodiscard]] const std::string& refused_message() const { return refused_message_; }

 private:
  struct Beast;

  Progress refuse(int status, std::string message);
  Progress check_head();
  bool read_target(std::string_view target);

  HttpLimits limits_;
  std::unique_ptr<Beast> beast_;
  HttpRequest request_;
  HttpAnswerForm form_;
  bool expects_continue_ = false;
  bool head_is_checked_ = false;
  int refused_status_ = 0;
  std::string refused_message_;
};

}  // namespace nanoflow
