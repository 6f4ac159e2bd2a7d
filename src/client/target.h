// Where a load test sends its requests.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nanoflow {

struct LoadTarget {
  bool is_tls = false;
  std::string host;  ///< a name or address, IPv6 without brackets
  std::string port;
  std::string prefix;                                        ///< of every path, "" or "/something"
  std::vector<std::pair<std::string, std::string>> headers;  ///< sent with every request

  /// "http://[::1]:8000", without the prefix.
  [[nodiscard]] std::string url() const;
  /// The bytes of a request with a JSON body. An empty body with "GET" is left out.
  [[nodiscard]] std::string request(std::string_view method, std::string_view path,
                                    std::string_view body) const;
};

/// Reads "http[s]://host[:port][/prefix]". Throws ConfigError naming `option`.
[[nodiscard]] LoadTarget parse_target(std::string_view url, const std::string& option);

}  // namespace nanoflow
