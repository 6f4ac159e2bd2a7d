#include "server/access.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "base/error.h"
#include "base/random.h"

namespace nanoflow {
namespace {

constexpr std::string_view kBearer = "bearer ";
constexpr size_t kMaxRequestId = 128;

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(), [](char a, char b) {
           return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b);
         });
}

}  // namespace

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (key.empty()) throw ConfigError("--api-key", "a key must not be empty");
    digests_.push_back(digest(key));
  }
}

ApiKeys::Digest ApiKeys::digest(std::string_view key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

bool ApiKeys::admits(const HttpRequest& request) const {
  if (digests_.empty()) return true;
  std::string_view key = request.header("Authorization");
  if (starts_with_ignoring_case(key, kBearer)) {
    key.remove_prefix(kBearer.size());
  } else {
    key = request.header("X-Api-Key");
  }
  const Digest given = digest(key);
  // No early end: how long it takes says nothing about which key was nearly right.
  bool found = false;
  for (const Digest& digest : digests_)
    found |= CRYPTO_memcmp(digest.data(), given.data(), given.size()) == 0;
  return found;
}

std::string_view Cors::allowed(std::string_view origin) const {
  for (const std::string& allowed : origins_) {
    if (allowed == "*") return "*";
    if (allowed == origin) return allowed;
  }
  return {};
}

void Cors::add_headers(const HttpRequest& request, std::vector<HttpHeader>& headers) const {
  const std::string_view origin = request.header("Origin");
  if (origin.empty()) return;
  const std::string_view answer = allowed(origin);
  if (answer.empty()) return;
  headers.push_back({"Access-Control-Allow-Origin", std::string(answer)});
  headers.push_back({"Access-Control-Expose-Headers", "X-Request-Id"});
  if (answer != "*") headers.push_back({"Vary", "Origin"});
}

HttpResponse Cors::preflight(const HttpRequest& request) const {
  HttpResponse response{.status = 204, .content_type = ""};
  if (allowed(request.header("Origin")).empty()) return response;
  const std::string_view wanted = request.header("Access-Control-Request-Headers");
  response.headers = {{"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
                      {"Access-Control-Allow-Headers",
                       wanted.empty() ? "Authorization, Content-Type" : std::string(wanted)},
                      {"Access-Control-Max-Age", "86400"}};
  return response;
}

RequestNames::RequestNames() {
  std::random_device device;
  state_ = (uint64_t{device()} << 32) | device();
}

std::string RequestNames::next() {
  const uint64_t high = state_.fetch_add(2 * kGoldenGamma);
  return fmt::format("{:016x}{:016x}", mix_bits(high), mix_bits(high + kGoldenGamma));
}

std::string RequestNames::of(const HttpRequest& request) {
  const std::string_view given = request.header("X-Request-Id");
  const bool usable = !given.empty() && given.size() <= kMaxRequestId &&
                      std::all_of(given.begin(), given.end(), [](char c) {
                        return c > ' ' && c < '\x7f' && c != '"' && c != '\\';
                      });
  return usable ? std::string(given) : next();
}

}  // namespace nanoflow
