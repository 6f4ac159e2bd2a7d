// One HTTP request at a time over libcurl. Knows nothing of hubs but to whom the token may go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow {

enum class HttpFailure : uint8_t {
  kNone,
  kCancelled,  ///< the session's `cancelled` said so
  kStopped,    ///< the request's body handler said so
  kTls,        ///< the certificate is not trusted; retrying does not help
  kBadUrl,     ///< not http(s), malformed, or a redirect that must not be followed
  kConnect,    ///< name not resolved, nobody listens, no route
  kTransfer,   ///< lost, stalled or cut short
};

struct HubResponse {
  HttpFailure failure = HttpFailure::kNone;
  std::string reason;  ///< for a person, when failure is set
  int status = 0;
  std::map<std::string, std::string, std::less<>> headers;  ///< names in lower case
  std::string body;      ///< at most HubRequest::max_body_bytes; empty when on_body took it
  std::string location;  ///< absolute URL of a redirect, else ""
  int64_t retry_after_s = 0;

  [[nodiscard]] bool ok() const { return failure == HttpFailure::kNone && status / 100 == 2; }
  /// The header's value, "" when absent. `name` in lower case.
  [[nodiscard]] std::string header(std::string_view name) const;
  /// Trying again may help: connection trouble, 408, 429 or 5xx.
  [[nodiscard]] bool retryable() const;
  /// "HTTP 503", "connection refused": for error messages.
  [[nodiscard]] std::string what() const;
};

struct HubRequest {
  std::string url;
  bool head = false;
  std::vector<std::string> headers;  ///< "Name: value"
  /// Takes the body of a 200 or 206 as it comes; status and headers are known by then. False stops
  /// the transfer (kStopped). May throw: the transfer stops and perform() throws the same.
  std::function<bool(const HubResponse&, std::span<const std::byte>)> on_body;
  int64_t max_body_bytes = int64_t{64} << 20;
};

struct HubHttpOptions {
  std::string origin;  ///< URL; the token goes to its scheme, host and port only
  std::string token;
  std::string ca_bundle;
  int64_t connect_timeout_ms = 15'000;
  int64_t stall_timeout_s = 30;
  std::function<bool()> cancelled;  ///< asked several times a second; empty: never
};

/// A connection that is kept between requests. For one thread at a time.
class HttpSession {
 public:
  explicit HttpSession(HubHttpOptions options);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  /// One request, no redirect followed. Throws only what on_body throws.
  HubResponse perform(const HubRequest& request);
  /// As perform(), following at most five redirects; `stop` says of a redirect that it is the
  /// answer. A redirect from https to http is refused (kBadUrl).
  HubResponse follow(HubRequest request, const std::function<bool(const HubResponse&)>& stop = {});

 private:
  struct Handle;
  HubHttpOptions options_;
  std::unique_ptr<Handle> handle_;
};

/// Pauses between tries that fail: doubling from `first_delay_ms` up to 30 s, a server's
/// Retry-After when that is longer.
class Backoff {
 public:
  Backoff(int max_attempts, int64_t first_delay_ms, std::function<bool()> cancelled);

  /// Sleeps; false when the tries are used up, the server asks for more than five minutes, or
  /// `cancelled`.
  [[nodiscard]] bool wait(int64_t retry_after_s);
  /// The last try brought something: count from zero again.
  void reset() { attempts_ = 0; }

 private:
  int max_attempts_;
  int64_t first_delay_ms_;
  std::function<bool()> cancelled_;
  int attempts_ = 0;
};

/// Whether scheme, host and port (with defaults) of two URLs agree.
bool same_origin(const std::string& a, const std::string& b);

/// Percent-encodes `text` for a URL's path; slashes are kept unless `encode_slash`.
std::string url_encode_path(std::string_view text, bool encode_slash = false);

}  // namespace nanoflow
