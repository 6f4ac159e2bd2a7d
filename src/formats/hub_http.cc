#include "formats/hub_http.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <thread>
#include <utility>

#include <curl/curl.h>
#include <fmt/format.h>

#include "base/check.h"

namespace nanoflow {
namespace {

constexpr int kMaxRedirects = 5;
constexpr int64_t kMaxDelayMs = 30'000;
constexpr int64_t kMaxRetryAfterS = 300;  // the longest window of a hub's rate limit

/// libcurl wants one call per process before the first handle; a static's construction is that.
void start_curl() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  NANO_CHECK(started == CURLE_OK, "curl_global_init: {}", curl_easy_strerror(started));
}

HttpFailure failure_of(CURLcode code) {
  switch (code) {
    case CURLE_OK: return HttpFailure::kNone;
    case CURLE_ABORTED_BY_CALLBACK: return HttpFailure::kCancelled;
    case CURLE_WRITE_ERROR: return HttpFailure::kStopped;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT: return HttpFailure::kConnect;
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION: return HttpFailure::kTls;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return HttpFailure::kBadUrl;
    default: return HttpFailure::kTransfer;
  }
}

/// What one transfer's callbacks share.
struct Exchange {
  const HubRequest& request;
  const HubHttpOptions& options;
  CURL* curl;
  HubResponse response;
  std::exception_ptr thrown;
};

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& response = static_cast<Exchange*>(user)->response;
  const std::string_view line(data, size * count);
  if (line.starts_with("HTTP/")) response.headers.clear();  // an informational response came first
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return line.size();
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front())) != 0)
    value.remove_prefix(1);
  while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back())) != 0)
    value.remove_suffix(1);
  response.headers[std::move(name)] = std::string(value);
  return line.size();
}

size_t on_data(char* data, size_t size, size_t count, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const size_t bytes = size * count;
  long status = 0;
  curl_easy_getinfo(exchange.curl, CURLINFO_RESPONSE_CODE, &status);
  exchange.response.status = static_cast<int>(status);
  try {
    if (exchange.request.on_body && (status == 200 || status == 206))
      return exchange.request.on_body(exchange.response,
                                      std::as_bytes(std::span<const char>(data, bytes)))
                 ? bytes
                 : 0;
    if (static_cast<int64_t>(exchange.response.body.size() + bytes) >
        exchange.request.max_body_bytes)
      return 0;
    exchange.response.body.append(data, bytes);
    return bytes;
  } catch (...) {  // must not unwind through libcurl's C frames
    exchange.thrown = std::current_exception();
    return 0;
  }
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& options = static_cast<Exchange*>(user)->options;
  return options.cancelled && options.cancelled() ? 1 : 0;
}

struct UrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

std::string url_part(CURLU* url, CURLUPart part, unsigned flags) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
  std::string copy(text);
  curl_free(text);
  return copy;
}

std::string origin_of(const std::string& text) {
  const std::unique_ptr<CURLU, UrlDeleter> url(curl_url());
  if (curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) return {};
  std::string host = url_part(url.get(), CURLUPART_HOST, 0);
  std::transform(host.begin(), host.end(), host.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return url_part(url.get(), CURLUPART_SCHEME, 0) + "://" + host + ":" +
         url_part(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

}  // namespace

struct HttpSession::Handle {
  CURL* curl = nullptr;
  std::array<char, CURL_ERROR_SIZE> error{};
};

std::string HubResponse::header(std::string_view name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

bool HubResponse::retryable() const {
  if (failure == HttpFailure::kConnect || failure == HttpFailure::kTransfer) return true;
  return failure == HttpFailure::kNone && (status == 408 || status == 429 || status >= 500);
}

std::string HubResponse::what() const {
  if (failure != HttpFailure::kNone) return reason;
  const std::string detail = header("x-error-message");
  return detail.empty() ? fmt::format("HTTP {}", status)
                        : fmt::format("HTTP {}: {}", status, detail);
}

HttpSession::HttpSession(HubHttpOptions options)
    : options_(std::move(options)), handle_(std::make_unique<Handle>()) {
  start_curl();
  handle_->curl = curl_easy_init();
  NANO_CHECK(handle_->curl != nullptr, "curl_easy_init");
}

HttpSession::~HttpSession() {
  curl_easy_cleanup(handle_->curl);
}

HubResponse HttpSession::perform(const HubRequest& request) {
  CURL* const curl = handle_->curl;
  curl_easy_reset(curl);  // keeps connections
  Exchange exchange{
      .request = request, .options = options_, .curl = curl, .response = {}, .thrown = {}};
  std::vector<std::string> lines = request.headers;
  lines.emplace_back("Accept-Encoding: identity");  // sizes and ranges are those of the file
  if (!options_.token.empty() && same_origin(request.url, options_.origin))
    lines.push_back("Authorization: Bearer " + options_.token);
  curl_slist* list = nullptr;
  for (const std::string& line : lines) list = curl_slist_append(list, line.c_str());
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> owned(list,
                                                                          curl_slist_free_all);

  handle_->error[0] = '\0';
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, handle_->error.data());
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "nanoflow/0.1; curl");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  // Parallel transfers want connections of their own, which HTTP/2 would fold into one.
  curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L << 10);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_timeout_ms));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(options_.stall_timeout_s));
  if (!options_.ca_bundle.empty())
    curl_easy_setopt(curl, CURLOPT_CAINFO, options_.ca_bundle.c_str());
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);

  const CURLcode code = curl_easy_perform(curl);
  if (exchange.thrown) std::rethrow_exception(exchange.thrown);
  HubResponse response = std::move(exchange.response);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  response.status = static_cast<int>(status);
  response.failure = failure_of(code);
  if (code != CURLE_OK)
    response.reason = handle_->error[0] != '\0' ? handle_->error.data() : curl_easy_strerror(code);
  const char* location = nullptr;
  curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &location);
  if (location != nullptr) response.location = location;
  curl_off_t retry_after = 0;
  curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &retry_after);
  response.retry_after_s = retry_after;
  return response;
}

HubResponse HttpSession::follow(HubRequest request,
                                const std::function<bool(const HubResponse&)>& stop) {
  for (int hop = 0;; ++hop) {
    HubResponse response = perform(request);
    if (response.failure != HttpFailure::kNone || response.location.empty() ||
        (stop && stop(response)))
      return response;
    if (hop == kMaxRedirects) {
      response.failure = HttpFailure::kTransfer;
      response.reason = "too many redirects";
      return response;
    }
    if (request.url.starts_with("https:") && !response.location.starts_with("https:")) {
      response.failure = HttpFailure::kBadUrl;
      response.reason = "the server redirects from https to " + response.location;
      return response;
    }
    request.url = response.location;
  }
}

Backoff::Backoff(int max_attempts, int64_t first_delay_ms, std::function<bool()> cancelled)
    : max_attempts_(max_attempts),
      first_delay_ms_(first_delay_ms),
      cancelled_(std::move(cancelled)) {}

bool Backoff::wait(int64_t retry_after_s) {
  if (++attempts_ >= max_attempts_ || retry_after_s > kMaxRetryAfterS) return false;
  const int64_t doubled = first_delay_ms_ << std::min(attempts_ - 1, 16);
  const int64_t delay_ms = std::max(std::min(doubled, kMaxDelayMs), retry_after_s * 1000);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(delay_ms);
  while (std::chrono::steady_clock::now() < until) {
    if (cancelled_ && cancelled_()) return false;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(
        std::chrono::milliseconds(50), until - std::chrono::steady_clock::now()));
  }
  return true;
}

bool same_origin(const std::string& a, const std::string& b) {
  const std::string origin = origin_of(a);
  return !origin.empty() && origin == origin_of(b);
}

std::string url_encode_path(std::string_view text, bool encode_slash) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte < 0x80 && (std::isalnum(byte) != 0 || c == '-' || c == '_' ||
                                       c == '.' || c == '~' || (c == '/' && !encode_slash));
    if (plain) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", byte);
    }
  }
  return out;
}

}  // namespace nanoflow
