#include "formats/hub_remote.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace nanoflow {
namespace {

int64_t parse_size(const std::string& text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 &&
                 value <= kMaxFileBytes
             ? value
             : -1;
}

}  // namespace

std::string etag_file_name(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"')
    etag = etag.substr(1, etag.size() - 2);
  const bool safe = !etag.empty() && etag.size() <= 128 && etag.front() != '.' &&
                    std::all_of(etag.begin(), etag.end(), [](char c) {
                      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' ||
                             c == '_' || c == '.' || c == '=' || c == ':';
                    });
  return safe ? etag : std::string();
}

HubHttpOptions HubRemote::session_options(std::function<bool()> cancelled) const {
  return {.origin = settings_.endpoint,
          .token = settings_.token,
          .ca_bundle = settings_.ca_bundle,
          .connect_timeout_ms = settings_.connect_timeout_ms,
          .stall_timeout_s = settings_.stall_timeout_s,
          .cancelled = std::move(cancelled)};
}

HubListing HubRemote::list(HttpSession& session, int max_attempts,
                           const std::function<bool()>& cancelled) const {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", settings_.endpoint,
                                      repo_id_, url_encode_path(revision_, true));
  Backoff backoff(max_attempts, settings_.retry_delay_ms, cancelled);
  for (;;) {
    HubRequest request;
    request.url = url;
    const HubResponse response = session.follow(std::move(request));
    if (response.ok()) return parse_hub_listing(response.body, url);
    if (!response.retryable() || !backoff.wait(response.retry_after_s)) {
      if (cancelled && cancelled()) throw_interrupted();
      throw_answer(response, repo_id_);
    }
  }
}

ResolvedFile HubRemote::resolve(HttpSession& session, const std::string& commit,
                                const std::string& name,
                                const std::function<bool()>& cancelled) const {
  const std::string first = fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, repo_id_, commit,
                                        url_encode_path(name));
  Backoff backoff(settings_.max_attempts, settings_.retry_delay_ms, cancelled);
  for (;;) {
    HubRequest request;
    request.url = first;
    request.head = true;
    std::string asked = first;
    // Renamed repositories redirect within the hub; the answer that counts is the one that tells
    // the etag, even if it points elsewhere for the content.
    const HubResponse response = session.follow(request, [&](const HubResponse& hop) {
      if (!hop.header("x-linked-etag").empty()) return true;
      asked = hop.location;
      return false;
    });
    if (response.ok() || (response.failure == HttpFailure::kNone && !response.location.empty())) {
      const bool linked = !response.header("x-linked-etag").empty();
      ResolvedFile file{.etag = etag_file_name(response.header(linked ? "x-linked-etag" : "etag")),
                        .size = -1,
                        .url = response.location.empty() ? asked : response.location};
      file.size = parse_size(response.header("x-linked-size"));
      if (file.size < 0 && response.location.empty())
        file.size = parse_size(response.header("content-length"));
      if (file.etag.empty())
        throw NetworkError(
            fmt::format("{}: no usable ETag in the answer; is this a Hugging "
                        "Face-compatible hub (HF_ENDPOINT), or does a proxy answer?",
                        first));
      const std::string told = response.header("x-repo-commit");
      if (!told.empty() && told != commit)
        throw NetworkError(fmt::format("{}: the hub answers for another commit ({})", first, told));
      return file;
    }
    if (!response.retryable() || !backoff.wait(response.retry_after_s)) {
      if (cancelled && cancelled()) throw_interrupted();
      throw_answer(response, fmt::format("{} of {}", name, repo_id_));
    }
  }
}

void HubRemote::throw_interrupted() const {
  throw NetworkError(
      fmt::format("download of {} interrupted: run the same command again to go on", repo_id_));
}

void HubRemote::throw_no_access(const HubResponse& response, const std::string& what) const {
  const bool gated = response.header("x-error-code") == "GatedRepo" || response.status == 403;
  const std::string page = fmt::format("{}/{}", settings_.endpoint, repo_id_);
  if (gated)
    throw HubUnavailable(fmt::format(
        "{} needs permission ({}): accept the licence at {} and set HF_TOKEN to a token of that "
        "account{}",
        what, response.what(), page,
        settings_.token.empty() ? "" : "; the token that is set has no access"));
  throw HubUnavailable(fmt::format(
      "{} does not exist or is private ({}): check the name at {}, accept its licence if there is "
      "one, and set HF_TOKEN{}",
      what, response.what(), page,
      settings_.token.empty() ? "" : " (the token that is set is not accepted)"));
}

void HubRemote::throw_answer(const HubResponse& response, const std::string& what) const {
  switch (response.failure) {
    case HttpFailure::kCancelled: throw_interrupted();
    case HttpFailure::kTls:
      throw NetworkError(fmt::format(
          "{}: the server's certificate is not trusted ({}); if a proxy of yours signs it, set "
          "SSL_CERT_FILE to its certificate",
          settings_.endpoint, response.reason));
    case HttpFailure::kBadUrl:
      throw NetworkError(fmt::format("cannot ask {} ({}); check HF_ENDPOINT", settings_.endpoint,
                                     response.reason));
    case HttpFailure::kConnect:
    case HttpFailure::kTransfer:
    case HttpFailure::kStopped:
      throw HubUnavailable(
          fmt::format("cannot reach {} for {} ({}); check the network, and "
                      "https_proxy if there is a proxy",
                      settings_.endpoint, what, response.reason));
    case HttpFailure::kNone: break;
  }
  if (response.status == 401 || response.status == 403) throw_no_access(response, what);
  if (response.status == 404 && response.header("x-error-code") == "RevisionNotFound")
    throw NetworkError(fmt::format("{} has no revision \"{}\"; see {}/{}/tree/main", repo_id_,
                                   revision_, settings_.endpoint, repo_id_));
  if (response.status == 404)
    throw NetworkError(fmt::format("{} does not exist at {} (revision \"{}\"); check the name",
                                   what, settings_.endpoint, revision_));
  if (response.status == 429)
    throw HubUnavailable(fmt::format(
        "{} limits the rate of requests ({}){}; try again later, or "
        "set HF_TOKEN for a higher limit",
        settings_.endpoint, response.what(),
        response.retry_after_s > 0 ? fmt::format(", for {} s", response.retry_after_s) : ""));
  if (response.status >= 500)
    throw HubUnavailable(fmt::format("{} is in trouble ({} for {}); try again later",
                                     settings_.endpoint, response.what(), what));
  throw NetworkError(
      fmt::format("{}: unexpected answer for {} ({})", settings_.endpoint, what, response.what()));
}

}  // namespace nanoflow
