// The hub's side: what is asked, what the answers mean, and what a person is told when they are no.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/error.h"
#include "formats/hub.h"
#include "formats/hub_http.h"
#include "formats/hub_listing.h"

namespace nanoflow {

/// The hub could not be asked, is in trouble or refuses access (401, 403): a complete cache may
/// stand in for it.
class HubUnavailable final : public NetworkError {
 public:
  using NetworkError::NetworkError;
};

/// Where a file's content is and what it is called.
struct ResolvedFile {
  std::string etag;  ///< as a file name: the content's SHA-256 or git's SHA-1, on a real hub
  int64_t size = -1;
  std::string url;  ///< to GET; signed and short-lived when it is of another host
};

/// A repository at the endpoint. Stateless but for its arguments; sessions belong to the callers.
class HubRemote {
 public:
  /// `settings` must outlive this object.
  HubRemote(const HubSettings& settings, std::string repo_id, std::string revision)
      : settings_(settings), repo_id_(std::move(repo_id)), revision_(std::move(revision)) {}

  /// Options of a session with this endpoint.
  [[nodiscard]] HubHttpOptions session_options(std::function<bool()> cancelled) const;

  /// The repository's files at the revision. `max_attempts` bounds the tries.
  /// Throws HubUnavailable, NetworkError.
  [[nodiscard]] HubListing list(HttpSession& session, int max_attempts,
                                const std::function<bool()>& cancelled) const;

  /// Asks (HEAD) for a file's etag, size and place. Throws as list().
  [[nodiscard]] ResolvedFile resolve(HttpSession& session, const std::string& commit,
                                     const std::string& name,
                                     const std::function<bool()>& cancelled) const;

  /// Throws what the final answer `response` to a request for `what` (the repository or a file)
  /// means.
  [[noreturn]] void throw_answer(const HubResponse& response, const std::string& what) const;

 private:
  [[noreturn]] void throw_interrupted() const;
  [[noreturn]] void throw_no_access(const HubResponse& response, const std::string& what) const;

  const HubSettings& settings_;
  std::string repo_id_;
  std::string revision_;
};

/// An ETag header as a file name: without W/ and quotes. "" when what is left is no safe file name.
std::string etag_file_name(std::string etag);

}  // namespace nanoflow
