#include "server/http_text.h"

#include <algorithm>
#include <array>
#include <iterator>

#include <fmt/format.h>

#include "base/check.h"

namespace nanoflow {
namespace {

std::string_view reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Unknown";
  }
}

std::string http_date(std::time_t now) {
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  const size_t size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return {text.data(), size};
}

void add_header(std::string& head, std::string_view name, std::string_view value) {
  NANO_CHECK(name.find_first_of("\r\n") == std::string_view::npos &&
                 value.find_first_of("\r\n") == std::string_view::npos,
             "a header breaks the line: {}", name);
  head += name;
  head += ": ";
  head += value;
  head += "\r\n";
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

}  // namespace

std::string answer_head(const HttpResponse& response, Framing framing, bool keep_alive,
                        std::time_t now) {
  std::string head;
  head.reserve(512);
  fmt::format_to(std::back_inserter(head), "HTTP/1.1 {} {}\r\n", response.status,
                 reason(response.status));
  add_header(head, "Server", "nanoflow");
  add_header(head, "Date", http_date(now));
  if (!response.content_type.empty()) add_header(head, "Content-Type", response.content_type);
  if (framing == Framing::kChunked) {
    add_header(head, "Transfer-Encoding", "chunked");
  } else if (framing == Framing::kLength && response.status != 204) {
    add_header(head, "Content-Length", fmt::format("{}", response.body.size()));
  }
  for (const HttpHeader& header : response.headers) add_header(head, header.name, header.value);
  add_header(head, "Connection", keep_alive ? "keep-alive" : "close");
  head += "\r\n";
  return head;
}

std::optional<std::string> percent_decoded(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]);
    const int low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return decoded;
}

bool split_target(std::string_view target, std::string& path, std::string& query) {
  if (target == "*") {  // OPTIONS *
    path = target;
    return true;
  }
  const size_t scheme = target.find("://");  // a proxy's absolute form
  if (scheme != std::string_view::npos && !target.starts_with('/')) {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (!target.starts_with('/')) return false;
  const size_t mark = target.find('?');
  if (mark != std::string_view::npos) query = target.substr(mark + 1);
  std::optional<std::string> decoded = percent_decoded(target.substr(0, mark));
  if (!decoded.has_value()) return false;
  path = std::move(*decoded);
  return true;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return lower(x) == lower(y); });
}

}  // namespace nanoflow
