// The cache folder that huggingface_hub defines, so that it and this program share downloads:
//   models--org--name/blobs/<etag>                       contents
//   models--org--name/snapshots/<commit>/<file>          links to ../../blobs/<etag>
//   models--org--name/refs/<revision>                    the commit a branch or tag stood for
//   models--org--name/nanoflow/<commit>.json             our own: what the commit should contain
//   .locks/models--org--name/<etag>.lock                 held while a blob is being made
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/hub_listing.h"

namespace nanoflow {

/// "org/name" or "name" as hubs allow them: letters, digits, '-', '_', '.'; no "--" or "..", no '-'
/// or '.' at the ends of a part. Throws ConfigError.
void check_repo_id(const std::string& repo_id);

/// An advisory lock on a file (flock), released by the destructor. Move-only.
class FileLock {
 public:
  /// Waits for other processes; empty when `cancelled` said so first. Throws IoError.
  static std::optional<FileLock> acquire(const std::filesystem::path& path,
                                         const std::function<bool()>& cancelled);
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;

 private:
  explicit FileLock(int file) : file_(file) {}
  int file_ = -1;
};

/// One repository's part of the cache. Thread-safe for distinct files.
class HubCache {
 public:
  HubCache(std::filesystem::path cache_dir, const std::string& repo_id);

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }
  [[nodiscard]] std::filesystem::path snapshot(const std::string& commit) const;
  [[nodiscard]] std::filesystem::path blob(const std::string& etag) const;
  [[nodiscard]] std::filesystem::path lock_path(const std::string& etag) const;

  /// The commit that `revision` (a commit itself, a branch or a tag) stood for last time.
  [[nodiscard]] std::optional<std::string> commit_of(const std::string& revision) const;
  /// Throws IoError.
  void write_ref(const std::string& revision, const std::string& commit) const;

  /// The commit's file list as we or huggingface_hub (trees/<commit>.json) kept it; nullopt when
  /// neither did or it cannot be read.
  [[nodiscard]] std::optional<HubListing> read_listing(const std::string& commit) const;
  void write_listing(const HubListing& listing) const;

  /// Whether the snapshot has the file with the listed size (any size when that is unknown).
  [[nodiscard]] bool has(const std::string& commit, const HubFile& file) const;
  /// Links the blob into the snapshot, replacing what is there; moves it there where the file
  /// system knows no links. Throws IoError, also when a folder on the way leaves the snapshot.
  void link(const std::string& commit, const std::string& name, const std::string& etag) const;

 private:
  std::filesystem::path cache_dir_;
  std::filesystem::path folder_;
};

/// Creates a folder and those above it. Throws IoError that names the settings to change.
void create_cache_folder(const std::filesystem::path& folder);

/// Throws IoError that says what to do when the file system of `folder` has not `bytes` to spare.
void require_free_disk(const std::filesystem::path& folder, int64_t bytes);

/// Bytes that an ordinary user can still write to the file system of `path` (or of the nearest
/// folder above it that exists). Throws IoError.
int64_t free_disk_bytes(const std::filesystem::path& path);

}  // namespace nanoflow
