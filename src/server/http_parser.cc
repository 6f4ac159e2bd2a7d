#include "server/http_parser.h"

#include <optional>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/buffer.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>

namespace nanoflow {
namespace {

namespace http = boost::beast::http;
using boost::beast::error_code;
using boost::beast::iequals;

// As http::string_body, but it grows with what has come: a client that promises a large body and
// sends nothing costs nothing.
struct GrowingBody {
  using value_type = std::string;

  class reader {
   public:
    template <bool is_request, class Fields>
    reader(http::header<is_request, Fields>& /*head*/, value_type& body) : body_(body) {}

    void init(const boost::optional<uint64_t>& /*length*/, error_code& error) { error = {}; }
    template <class Buffers>
    size_t put(const Buffers& buffers, error_code& error) {
      error = {};
      size_t size = 0;
      for (auto piece : boost::beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(piece.data()), piece.size());
        size += piece.size();
      }
      return size;
    }
    void finish(error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

std::string_view to_std(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Nothing for a malformed escape or an escaped NUL, which ends names in too many places.
std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]);
    const int low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

}  // namespace

struct HttpParser::Beast {
  http::request_parser<GrowingBody> parser;
};

HttpParser::HttpParser(const HttpLimits& limits)
    : limits_(limits), beast_(std::make_unique<Beast>()) {
  beast_->parser.header_limit(static_cast<uint32_t>(limits.max_header_bytes));
  beast_->parser.body_limit(limits.max_body_bytes);
}

HttpParser::~HttpParser() = default;

HttpParser::Progress HttpParser::refuse(int status, std::string message) {
  refused_status_ = status;
  refused_message_ = std::move(message);
  return Progress::kRefused;
}

HttpParser::Progress HttpParser::feed(std::string_view bytes, size_t& used) {
  used = 0;
  auto& parser = beast_->parser;
  while (!parser.is_done()) {
    error_code error;
    const std::string_view rest = bytes.substr(used);
    const size_t taken = rest.empty() && parser.is_header_done()
                             ? 0
                             : parser.put(boost::asio::buffer(rest.data(), rest.size()), error);
    used += taken;
    if (error && error != http::error::need_more) {
      if (error == http::error::header_limit)
        return refuse(431, fmt::format("The request's head is larger than {} bytes.",
                                       limits_.max_header_bytes));
      if (error == http::error::body_limit)
        return refuse(413, fmt::format("The request's body is larger than {} bytes.",
                                       limits_.max_body_bytes));
      if (error == http::error::bad_version)
        return refuse(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.");
      return refuse(400, fmt::format("Malformed HTTP request: {}.", error.message()));
    }
    if (parser.is_header_done() && !head_is_checked_) {
      head_is_checked_ = true;
      const Progress progress = check_head();
      if (progress != Progress::kDone) return progress;
    } else if (error == http::error::need_more || taken == 0) {
      // A chunk's head or the trailer that never ends.
      if (bytes.size() - used > limits_.max_header_bytes)
        return refuse(431, fmt::format("A chunk's head or the trailer is larger than {} bytes.",
                                       limits_.max_header_bytes));
      return Progress::kNeedMore;
    }
  }
  request_.body = std::move(parser.get().body());
  return Progress::kDone;
}

// kDone: no body follows.
HttpParser::Progress HttpParser::check_head() {
  const auto& head = beast_->parser.get();
  form_.is_http10 = head.version() < 11;
  form_.keep_alive = head.keep_alive();
  form_.is_head = head.method() == http::verb::head;
  if (head.count(http::field::host) > 1 || (!form_.is_http10 && head.count(http::field::host) == 0))
    return refuse(400, "A request needs one Host header.");
  // Anything that two servers could frame differently hides one request in another.
  if (head.count(http::field::content_length) > 1)
    return refuse(400, "A request has at most one Content-Length header.");
  if (head.count(http::field::transfer_encoding) > 0) {
    if (form_.is_http10 || head.count(http::field::transfer_encoding) > 1 ||
        head.count(http::field::content_length) > 0)
      return refuse(400, "Transfer-Encoding stands alone, and in HTTP/1.1 only.");
    if (!iequals(head[http::field::transfer_encoding], "chunked"))
      return refuse(501, "The only Transfer-Encoding served is chunked.");
  }
  if (head.count(http::field::expect) > 0) {
    if (!iequals(head[http::field::expect], "100-continue"))
      return refuse(417, "The only expectation served is 100-continue.");
    expects_continue_ = !form_.is_http10;
  }
  request_.method = std::string(to_std(head.method_string()));
  if (!read_target(to_std(head.target()))) return refuse(400, "The request's target is malformed.");
  // Copied before a trailer may add to them: what follows a body is no header.
  for (const auto& field : head)
    request_.headers.push_back(
        {std::string(to_std(field.name_string())), std::string(to_std(field.value()))});
  return beast_->parser.is_done() ? Progress::kDone : Progress::kHead;
}

bool HttpParser::read_target(std::string_view target) {
  if (!target.starts_with('/') && target != "*") {
    // The form that is meant for proxies: scheme://authority/path.
    const size_t scheme_end = target.find("://");
    if (scheme_end == std::string_view::npos) return false;
    const size_t path = target.find_first_of("/?", scheme_end + 3);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  target = target.substr(0, target.find('#'));
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request_.query = target.substr(question + 1);
  std::optional<std::string> path = percent_decoded(target.substr(0, question));
  if (!path) return false;
  request_.path = path->empty() ? "/" : std::move(*path);
  return true;
}

HttpRequest HttpParser::take_request() {
  return std::move(request_);
}

}  // namespace nanoflow
