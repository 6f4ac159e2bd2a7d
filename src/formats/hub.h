// Downloading model repositories from a Hugging Face-compatible hub into the cache folder that the
// huggingface_hub package uses too. What a request looks like is in hub_remote, where files lie in
// hub_cache, how bytes arrive in hub_transfer.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/log.h"

namespace nanoflow {

/// Where to download from and to, and how patient to be. The operator's; see
/// hub_settings_from_environment().
struct HubSettings {
  std::string endpoint = "https://huggingface.co";  ///< without a slash at the end
  std::string token;                                ///< "": anonymous
  std::filesystem::path cache_dir;                  ///< holds models--org--name folders
  std::string ca_bundle;                            ///< PEM file; "": the system's
  bool offline = false;                             ///< never touch the network
  int connections = 8;                              ///< downloads at once
  int64_t part_bytes = int64_t{64} << 20;           ///< large files are fetched in ranges of this
  int max_attempts = 6;           ///< tries in a row that bring no byte before giving up
  int64_t retry_delay_ms = 1000;  ///< first pause; doubles up to 30 s
  int64_t connect_timeout_ms = 15'000;
  int64_t stall_timeout_s = 30;  ///< a connection that brings no byte for so long is dropped

  /// Throws ConfigError naming the field.
  void validate() const;
};

/// Reads what the huggingface_hub package reads: HF_ENDPOINT, HF_TOKEN (else the file HF_TOKEN_PATH
/// or HF_HOME/token, unless HF_HUB_DISABLE_IMPLICIT_TOKEN), HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE,
/// HF_HOME, XDG_CACHE_HOME, HF_HUB_OFFLINE; and the CA bundle from REQUESTS_CA_BUNDLE,
/// CURL_CA_BUNDLE or SSL_CERT_FILE. Throws ConfigError when no cache folder can be told.
HubSettings hub_settings_from_environment();

/// A moment of a download. Bytes and files found in the cache count as done.
struct HubProgress {
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
  int64_t files_done = 0;
  int64_t files_total = 0;
  double bytes_per_s = 0;  ///< received over the last seconds
};

struct PullOptions {
  std::string revision = "main";  ///< branch, tag or commit
  /// Shell patterns over whole names; * crosses slashes. Empty: what serving needs, see
  /// select_files().
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  /// Called by download threads, one at a time, at most ten times a second and at the end.
  std::function<void(const HubProgress&)> on_progress;
  /// Set by any thread to stop; what has arrived is kept and the next pull() goes on from there.
  const std::atomic<bool>* cancel = nullptr;
  /// Take a branch or tag as it stood last time when that is complete in the cache, and only ask
  /// the hub when it is not.
  bool prefer_cache = false;
};

struct PullResult {
  std::filesystem::path path;  ///< the snapshot folder
  std::string commit;
  int64_t bytes_received = 0;  ///< 0: everything was in the cache
};

/// Downloads repositories. Thread-safe: pull() keeps no state, and processes that pull the same
/// files wait for each other.
class HubClient {
 public:
  /// `logger` gets warnings (hub not reachable, cache used instead) and must outlive the client.
  HubClient(HubSettings settings, Logger& logger);

  /// Makes the selected files of `repo_id` ("org/name") complete in the cache. A commit whose files
  /// are all there needs no network. When the hub cannot be reached but the cache is complete, the
  /// cache is used. Files are verified (SHA-256 or git's SHA-1) before they appear in the snapshot.
  /// Throws ConfigError (bad name, nothing to serve in the repository), NetworkError (no access,
  /// not found, no connection, interrupted, wrong checksum), IoError (disk full, no write access);
  /// each says what to do.
  [[nodiscard]] PullResult pull(const std::string& repo_id, const PullOptions& options) const;

 private:
  HubSettings settings_;
  Logger& logger_;
};

}  // namespace nanoflow
