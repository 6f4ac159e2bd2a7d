#include "server/http_message.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <iterator>

#include <strings.h>

#include <fmt/format.h>
#include <boost/beast/http/status.hpp>

namespace nanoflow {
namespace {

bool is_token(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool is_value(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) {
    return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  });
}

bool frames_the_message(const std::string& name) {
  constexpr std::array<const char*, 3> kNames = {"Content-Length", "Transfer-Encoding",
                                                 "Connection"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](const char* framing) { return strcasecmp(name.c_str(), framing) == 0; });
}

std::string_view reason_phrase(int status) {
  const boost::beast::string_view reason =
      boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(status));
  return {reason.data(), reason.size()};
}

}  // namespace

bool is_valid_head(const HttpResponse& response) {
  return response.status >= 200 && response.status <= 599 && is_value(response.content_type) &&
         std::all_of(response.headers.begin(), response.headers.end(), [](const HttpHeader& h) {
           return is_token(h.name) && is_value(h.value) && !frames_the_message(h.name);
         });
}

void append_head(std::string& out, const HttpResponse& response, const HttpHeadForm& form) {
  auto into = std::back_inserter(out);
  fmt::format_to(into, "HTTP/1.1 {} {}\r\nServer: nanoflow\r\nDate: {}\r\n", response.status,
                 reason_phrase(response.status), form.date);
  if (!response.content_type.empty() && !has_no_body(response.status))
    fmt::format_to(into, "Content-Type: {}\r\n", response.content_type);
  for (const HttpHeader& header : response.headers)
    fmt::format_to(into, "{}: {}\r\n", header.name, header.value);
  if (form.framing == HttpFraming::kChunked) {
    out += "Transfer-Encoding: chunked\r\n";
  } else if (form.framing == HttpFraming::kLength && !has_no_body(response.status)) {
    fmt::format_to(into, "Content-Length: {}\r\n", form.body_bytes);
  }
  if (!form.keep_alive) {
    out += "Connection: close\r\n";
  } else if (form.is_http10) {
    out += "Connection: keep-alive\r\n";
  }
  out += "\r\n";
}

void append_chunk(std::string& out, std::string_view bytes) {
  if (bytes.empty()) return;
  std::array<char, 20> size{};
  const auto end = fmt::format_to(size.begin(), "{:x}\r\n", bytes.size());
  out.append(size.begin(), end);
  out += bytes;
  out += "\r\n";
}

bool has_no_body(int status) {
  return status == 204 || status == 304;
}

std::string http_date(int64_t unix_seconds) {
  constexpr std::array<const char*, 7> kDays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array<const char*, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                   "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t seconds = unix_seconds;
  std::tm at{};
  gmtime_r(&seconds, &at);
  return fmt::format(
      "{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[static_cast<size_t>(at.tm_wday)], at.tm_mday,
      kMonths[static_cast<size_t>(at.tm_mon)], at.tm_year + 1900, at.tm_hour, at.tm_min, at.tm_sec);
}

}  // namespace nanoflow
