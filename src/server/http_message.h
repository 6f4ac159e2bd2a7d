// The bytes of an answer's head.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "server/http.h"

namespace nanoflow {

enum class HttpFraming : uint8_t {
  kLength,   ///< Content-Length
  kChunked,  ///< Transfer-Encoding: chunked
  kToEnd,    ///< the connection's end ends the body
};

struct HttpHeadForm {
  HttpFraming framing = HttpFraming::kLength;
  size_t body_bytes = 0;  ///< kLength
  bool keep_alive = false;
  bool is_http10 = false;
  std::string_view date;  ///< http_date()
};

/// Whether the head may be sent: names are tokens, values have no control characters, and no header
/// is among those that frame the message.
[[nodiscard]] bool is_valid_head(const HttpResponse& response);

/// Status line and headers with the empty line; `response` is_valid_head().
void append_head(std::string& out, const HttpResponse& response, const HttpHeadForm& form);

/// Size line, bytes and line end of one chunk; none for empty `bytes`, which would end the body.
void append_chunk(std::string& out, std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

/// A body never follows these (RFC 9110, 6.4.1).
[[nodiscard]] bool has_no_body(int status);

/// "Sun, 06 Nov 1994 08:49:37 GMT".
[[nodiscard]] std::string http_date(int64_t unix_seconds);

}  // namespace nanoflow
