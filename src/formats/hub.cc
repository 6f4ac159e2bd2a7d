#include "formats/hub.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/mmap.h"
#include "formats/hub_cache.h"
#include "formats/hub_listing.h"
#include "formats/hub_part_file.h"
#include "formats/hub_remote.h"
#include "formats/hub_transfer.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr int kAttemptsWithCache = 2;  // before a complete cache stands in for the hub
constexpr size_t kNamesInMessage = 5;

/// Files without which a model cannot be served, among those that a default selection takes.
bool is_essential(const std::string& name) {
  for (const char* pattern :
       {"*.safetensors", "*.safetensors.index.json", "*.gguf", "config.json",
        "generation_config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json",
        "added_tokens.json", "*.jinja", "*.tiktoken"})
    if (matches_pattern(pattern, name)) return true;
  return false;
}

/// What a snapshot folder holds, for one that came without a list: its files, and the weight files
/// that its index names.
HubListing listing_of_folder(const fs::path& folder, const std::string& commit) {
  HubListing listing{.commit = commit, .files = {}};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder, error))
    if (entry.is_regular_file(error))
      listing.files.push_back({.name = entry.path().lexically_relative(folder).string(),
                               .size = -1,
                               .sha256 = {},
                               .git_sha1 = {}});
  const fs::path index = folder / "model.safetensors.index.json";
  if (!fs::is_regular_file(index, error)) return listing;
  const Result<Json> json = parse_json(read_file(index));
  const Json* const map = json.has_value() ? json->find("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) return listing;
  for (const auto& [tensor, file] : map->as_object())
    if (file.is_string() && std::none_of(listing.files.begin(), listing.files.end(),
                                         [&name = file.as_string()](const HubFile& known) {
                                           return known.name == name;
                                         }))
      listing.files.push_back({.name = file.as_string(), .size = -1, .sha256 = {}, .git_sha1 = {}});
  return listing;
}

/// Names of wanted files that the cached commit lacks; nullopt when it is not cached at all.
std::optional<std::vector<std::string>> missing_in_cache(const HubCache& cache,
                                                         const std::string& commit,
                                                         const std::string& repo_id,
                                                         const PullOptions& options) {
  std::error_code error;
  if (!fs::is_directory(cache.snapshot(commit), error)) return std::nullopt;
  std::optional<HubListing> listing = cache.read_listing(commit);
  if (!listing.has_value()) listing = listing_of_folder(cache.snapshot(commit), commit);
  std::vector<std::string> missing;
  try {
    for (const HubFile& file :
         select_files(listing->files, options.include, options.exclude, repo_id))
      if (!cache.has(commit, file) && (!options.include.empty() || is_essential(file.name)))
        missing.push_back(file.name);
  } catch (const ConfigError&) {
    missing.emplace_back("model weights");
  }
  return missing;
}

std::string name_list(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kNamesInMessage);
  return fmt::format("{}{}",
                     fmt::join(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", "),
                     shown < names.size() ? fmt::format(" and {} more", names.size() - shown) : "");
}

/// Throws IoError when what is missing does not fit on the disk.
void check_disk_space(const HubCache& cache, const std::vector<HubFile>& missing) {
  int64_t needed = 0;
  std::error_code error;
  for (const HubFile& file : missing) {
    const fs::path blob = cache.blob(file.sha256.empty() ? file.git_sha1 : file.sha256);
    if (file.size <= 0 || fs::is_regular_file(blob, error)) continue;
    needed += std::max<int64_t>(0, file.size - reserved_bytes(blob));
  }
  require_free_disk(cache.folder(), needed);
}

/// Fetches what the listed commit lacks.
PullResult complete_snapshot(const HubSettings& settings, const HubRemote& remote,
                             const HubCache& cache, const HubListing& listing,
                             const std::string& repo_id, const PullOptions& options) {
  const std::vector<HubFile> wanted =
      select_files(listing.files, options.include, options.exclude, repo_id);
  HubProgress progress{.files_total = static_cast<int64_t>(wanted.size())};
  std::vector<HubFile> missing;
  for (const HubFile& file : wanted) {
    const int64_t size = std::max<int64_t>(0, file.size);
    progress.bytes_total += size;
    if (cache.has(listing.commit, file)) {
      progress.bytes_done += size;
      ++progress.files_done;
    } else {
      missing.push_back(file);
    }
  }
  PullResult result{.path = cache.snapshot(listing.commit), .commit = listing.commit};
  TransferMeter meter(progress, options.on_progress);
  if (!missing.empty()) {
    check_disk_space(cache, missing);
    cache.write_listing(listing);
    HubTransfer transfer({.settings = settings,
                          .remote = remote,
                          .cache = cache,
                          .repo_id = repo_id,
                          .commit = listing.commit,
                          .files = std::move(missing),
                          .cancel = options.cancel},
                         meter);
    meter.report(true);  // what is there already does not count for the rate
    transfer.run();
  }
  meter.report(true);
  result.bytes_received = meter.received_bytes();
  return result;
}

}  // namespace

HubClient::HubClient(HubSettings settings, Logger& logger)
    : settings_(std::move(settings)), logger_(logger) {
  settings_.validate();
}

PullResult HubClient::pull(const std::string& repo_id, const PullOptions& options) const {
  check_repo_id(repo_id);
  if (!is_safe_name(options.revision))
    throw ConfigError("--revision",
                      fmt::format("\"{}\" is no branch, tag or commit", options.revision));
  const HubCache cache(settings_.cache_dir, repo_id);
  const HubRemote remote(settings_, repo_id, options.revision);
  const std::optional<std::string> known = cache.commit_of(options.revision);
  std::optional<std::vector<std::string>> missing;
  if (known.has_value()) missing = missing_in_cache(cache, *known, repo_id, options);
  const bool complete = missing.has_value() && missing->empty();
  const auto cached = [&] { return PullResult{.path = cache.snapshot(*known), .commit = *known}; };
  if (complete && (settings_.offline || options.prefer_cache || *known == options.revision))
    return cached();
  if (settings_.offline)
    throw NetworkError(fmt::format(
        "{} (revision \"{}\") is not complete in {} ({}), and HF_HUB_OFFLINE forbids to download: "
        "unset it once",
        repo_id, options.revision, settings_.cache_dir.string(),
        missing.has_value() ? "missing: " + name_list(*missing) : "nothing of it is there"));

  const auto cancelled = [&] { return options.cancel != nullptr && *options.cancel; };
  HubListing listing;
  try {
    HttpSession session(remote.session_options(cancelled));
    listing =
        remote.list(session, complete ? kAttemptsWithCache : settings_.max_attempts, cancelled);
  } catch (const HubUnavailable& error) {
    if (!complete) throw;
    logger_.warning("{}; using {} as it was downloaded before", error.what(), repo_id);
    return cached();
  }
  PullResult result = complete_snapshot(settings_, remote, cache, listing, repo_id, options);
  try {
    cache.write_ref(options.revision, listing.commit);
  } catch (const IoError&) {
    if (result.bytes_received > 0) throw;  // nothing was written: the cache may be read-only
  }
  return result;
}

}  // namespace nanoflow
