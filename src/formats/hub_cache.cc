#include "formats/hub_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/units.h"
#include "formats/hub_checksum.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRepoIdBytes = 96;              // the hub's limit
constexpr int64_t kSpareBytes = int64_t{16} << 20;  // left on the disk for everybody else

bool is_repo_part(std::string_view part) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
  };
  return !part.empty() && std::all_of(part.begin(), part.end(), plain) &&
         part.find("--") == std::string_view::npos && part.find("..") == std::string_view::npos &&
         part.front() != '-' && part.front() != '.' && part.back() != '-' && part.back() != '.';
}

std::string folder_name(const std::string& repo_id) {
  std::string name = "models--" + repo_id;
  if (const size_t slash = name.find('/'); slash != std::string::npos) name.replace(slash, 1, "--");
  return name;
}

/// huggingface_hub's own list of a commit's files.
HubListing listing_from_tree(const Json& json, const std::string& commit) {
  HubListing listing{.commit = commit, .files = {}};
  const Json* const files = json.find("files");
  if (files == nullptr || !files->is_object()) throw FormatError(commit, "has no files");
  for (const auto& [name, entry] : files->as_object()) {
    HubFile file{.name = name, .size = -1, .sha256 = {}, .git_sha1 = {}};
    if (const Json* size = entry.find("size"); size != nullptr && size->is_int())
      file.size = size->as_int();
    const Json* const sha256 = entry.find("lfs_sha256");
    const Json* const blob = entry.find("blob_id");
    if (sha256 != nullptr && sha256->is_string()) {
      file.sha256 = sha256->as_string();
    } else if (blob != nullptr && blob->is_string()) {
      file.git_sha1 = blob->as_string();
    }
    listing.files.push_back(std::move(file));
  }
  return listing;
}

}  // namespace

void check_repo_id(const std::string& repo_id) {
  const size_t slash = repo_id.find('/');
  const std::string_view all = repo_id;
  const bool fine = repo_id.size() <= kMaxRepoIdBytes &&
                    (slash == std::string::npos || is_repo_part(all.substr(0, slash))) &&
                    is_repo_part(slash == std::string::npos ? all : all.substr(slash + 1));
  if (!fine)
    throw ConfigError("--model",
                      fmt::format("\"{}\" is no hub id; it should look like org/name", repo_id));
}

void create_cache_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw IoError(folder.string(), error.message() +
                                       "; set HF_HUB_CACHE or HF_HOME to a folder "
                                       "that you can write to");
}

int64_t free_disk_bytes(const fs::path& path) {
  fs::path existing = fs::absolute(path);
  while (!fs::exists(existing) && existing.has_parent_path() && existing != existing.root_path())
    existing = existing.parent_path();
  struct statvfs info {};
  if (::statvfs(existing.c_str(), &info) != 0)
    throw IoError(existing.string(), std::strerror(errno));
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

void require_free_disk(const fs::path& folder, int64_t bytes) {
  if (bytes <= 0) return;
  const int64_t free = free_disk_bytes(folder);
  if (bytes + kSpareBytes > free)
    throw IoError(folder.string(),
                  fmt::format("the download needs {} more, the disk has {} free; free some space, "
                              "or set HF_HUB_CACHE to another disk",
                              format_bytes(static_cast<double>(bytes)),
                              format_bytes(static_cast<double>(free))));
}

std::optional<FileLock> FileLock::acquire(const fs::path& path,
                                          const std::function<bool()>& cancelled) {
  create_cache_folder(path.parent_path());
  for (;;) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (file < 0) throw IoError(path.string(), std::strerror(errno));
    FileLock lock(file);
    while (::flock(file, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) return lock;  // no locks on this file system
      if (cancelled && cancelled()) return std::nullopt;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    // The last holder may have deleted the file: then ours is not the one that others will see.
    struct stat held {
    }, named{};
    if (::fstat(file, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev)
      return lock;
  }
}

FileLock::~FileLock() {
  if (file_ >= 0) ::close(file_);
}

FileLock::FileLock(FileLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(file_, other.file_);
  return *this;
}

HubCache::HubCache(fs::path cache_dir, const std::string& repo_id)
    : cache_dir_(std::move(cache_dir)), folder_(cache_dir_ / folder_name(repo_id)) {}

fs::path HubCache::snapshot(const std::string& commit) const {
  return folder_ / "snapshots" / commit;
}

fs::path HubCache::blob(const std::string& etag) const {
  return folder_ / "blobs" / etag;
}

fs::path HubCache::lock_path(const std::string& etag) const {
  return cache_dir_ / ".locks" / folder_.filename() / (etag + ".lock");
}

std::optional<std::string> HubCache::commit_of(const std::string& revision) const {
  if (is_hex(revision, 40)) return revision;
  const fs::path path = folder_ / "refs" / revision;
  std::error_code error;
  if (!is_safe_name(revision) || !fs::is_regular_file(path, error)) return std::nullopt;
  std::string commit = read_file(path);
  while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0)
    commit.pop_back();
  if (!is_hex(commit, 40)) return std::nullopt;
  return commit;
}

void HubCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit || commit_of(revision) == commit) return;
  const fs::path path = folder_ / "refs" / revision;
  create_cache_folder(path.parent_path());
  write_file_atomically(path, commit);
}

std::optional<HubListing> HubCache::read_listing(const std::string& commit) const {
  const fs::path own = folder_ / "nanoflow" / (commit + ".json");
  const fs::path tree = folder_ / "trees" / (commit + ".json");
  for (const fs::path& path : {own, tree}) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) continue;
    try {
      const Result<Json> json = parse_json(read_file(path));
      if (!json.has_value()) continue;
      return path == own ? listing_from_json(*json, path.string())
                         : listing_from_tree(*json, commit);
    } catch (const EnvironmentError&) {
      continue;  // a list only saves questions to the hub: without one they are asked
    }
  }
  return std::nullopt;
}

void HubCache::write_listing(const HubListing& listing) const {
  const fs::path path = folder_ / "nanoflow" / (listing.commit + ".json");
  create_cache_folder(path.parent_path());
  write_file_atomically(path, listing_to_json(listing).dump(1));
}

bool HubCache::has(const std::string& commit, const HubFile& file) const {
  std::error_code error;
  const fs::path path = snapshot(commit) / file.name;
  if (!fs::is_regular_file(path, error)) return false;
  return file.size < 0 || static_cast<int64_t>(fs::file_size(path, error)) == file.size;
}

void HubCache::link(const std::string& commit, const std::string& name,
                    const std::string& etag) const {
  const fs::path root = snapshot(commit);
  const fs::path path = root / name;
  create_cache_folder(path.parent_path());
  if (fs::canonical(path.parent_path()) != (fs::canonical(root) / name).parent_path())
    throw IoError(path.parent_path().string(),
                  "leads out of the snapshot by a symbolic link; delete it");
  const fs::path target = blob(etag).lexically_relative(path.parent_path());
  // Under a name of its own first: another thread or process may be linking the same file.
  const fs::path fresh = fmt::format("{}.{}.tmp", path.string(), ::gettid());
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_symlink(target, fresh, error);
  if (error) {
    fs::rename(blob(etag), path, error);
  } else {
    fs::rename(fresh, path, error);
  }
  if (error) throw IoError(path.string(), error.message());
}

}  // namespace nanoflow
