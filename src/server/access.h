// Who may ask: API keys and cross-origin rules, and the name under which a request is found again.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"

namespace nanoflow {

/// The keys that open the API. Kept as digests, compared in constant time.
class ApiKeys {
 public:
  /// No keys: everybody may ask. Throws ConfigError for an empty key.
  explicit ApiKeys(const std::vector<std::string>& keys);

  /// Whether the request brings one of the keys: "Authorization: Bearer KEY" or "X-Api-Key: KEY".
  [[nodiscard]] bool admits(const HttpRequest& request) const;
  [[nodiscard]] bool open_to_all() const { return digests_.empty(); }

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest digest(std::string_view key);

  std::vector<Digest> digests_;
};

/// Cross-origin resource sharing (the Fetch standard, section 3.2), for browser pages elsewhere.
class Cors {
 public:
  /// `origins`: those allowed, "*" for all; none: no page of another origin may read answers.
  explicit Cors(std::vector<std::string> origins) : origins_(std::move(origins)) {}

  /// What every answer to `request` carries.
  void add_headers(const HttpRequest& request, std::vector<HttpHeader>& headers) const;
  /// The answer to a preflight (OPTIONS).
  [[nodiscard]] HttpResponse preflight(const HttpRequest& request) const;

 private:
  [[nodiscard]] std::string_view allowed(std::string_view origin) const;

  std::vector<std::string> origins_;
};

/// Names under which requests are found in logs and answers. Thread-safe.
class RequestNames {
 public:
  RequestNames();
  /// 32 hexadecimal digits, each time others.
  [[nodiscard]] std::string next();
  /// The request's own X-Request-Id where it is usable (1-128 visible ASCII characters), else
  /// next().
  [[nodiscard]] std::string of(const HttpRequest& request);

 private:
  std::atomic<uint64_t> state_;  // SplitMix64's, from a random start
};

}  // namespace nanoflow
