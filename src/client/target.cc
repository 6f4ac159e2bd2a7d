#include "client/target.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

std::string in_brackets(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

bool is_port(std::string_view text) {
  return !text.empty() && text.size() <= 5 &&
         std::all_of(text.begin(), text.end(), [](char c) { return '0' <= c && c <= '9'; });
}

}  // namespace

std::string LoadTarget::url() const {
  return fmt::format("{}://{}:{}", is_tls ? "https" : "http", in_brackets(host), port);
}

std::string LoadTarget::request(std::string_view method, std::string_view path,
                                std::string_view body) const {
  std::string out = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}:{}\r\nUser-Agent: nanoflow-bench\r\n",
                                method, prefix, path, in_brackets(host), port);
  for (const auto& [name, value] : headers) out += fmt::format("{}: {}\r\n", name, value);
  if (method != "GET")
    out += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  out += "\r\n";
  out += body;
  return out;
}

LoadTarget parse_target(std::string_view url, const std::string& option) {
  const auto refuse = [&] {
    return ConfigError(option,
                       fmt::format("\"{}\" is no http://host:port or https://host:port", url));
  };
  LoadTarget target;
  std::string_view rest = url;
  target.is_tls = rest.starts_with("https://");
  if (!target.is_tls && !rest.starts_with("http://")) throw refuse();
  rest.remove_prefix(target.is_tls ? 8 : 7);
  const size_t slash = std::min(rest.find('/'), rest.size());
  target.prefix = rest.substr(slash);
  while (target.prefix.ends_with('/')) target.prefix.pop_back();
  std::string_view authority = rest.substr(0, slash);
  target.port = target.is_tls ? "443" : "80";
  const size_t bracket = authority.find(']');
  const size_t colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) {
    target.port = authority.substr(colon + 1);
    authority = authority.substr(0, colon);
  }
  if (authority.starts_with('[') && authority.ends_with(']'))
    authority = authority.substr(1, authority.size() - 2);
  target.host = authority;
  const bool is_clean = url.find_first_of(" \r\n@?#") == std::string_view::npos;
  if (target.host.empty() || !is_port(target.port) || !is_clean) throw refuse();
  return target;
}

}  // namespace nanoflow
