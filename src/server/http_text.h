// The text of HTTP/1.1 that needs no library: heads of answers, paths of requests.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "server/http.h"

namespace nanoflow {

/// How the body of an answer is framed.
enum class Framing : uint8_t {
  kLength,   ///< Content-Length
  kChunked,  ///< until the chunk of size 0
  kClose,    ///< until the connection's end (HTTP/1.0)
};

/// Status line and headers with the empty line behind them. NANO_CHECKs that no header of the
/// response contains a line break. `now`: for Date.
std::string answer_head(const HttpResponse& response, Framing framing, bool keep_alive,
                        std::time_t now);

/// "a%20b" -> "a b"; nullopt for a malformed escape or an encoded NUL.
std::optional<std::string> percent_decoded(std::string_view text);

/// Target of a request line -> path and query. False when it is malformed.
bool split_target(std::string_view target, std::string& path, std::string& query);

bool equal_ignoring_case(std::string_view a, std::string_view b);

}  // namespace nanoflow
