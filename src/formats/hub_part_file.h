// A file that arrives in parts, in any order, over several runs of the program.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace nanoflow {

/// Part i covers bytes [i * part_bytes, min(size, (i + 1) * part_bytes)) and fills from its start.
/// How far each part is stands in a second file beside the data, written after the data, so that a
/// killed process loses at most a megabyte per part. Distinct parts may be written by distinct
/// threads; everything else is for one thread while nobody writes.
class PartFile {
 public:
  /// Opens <blob>.nanoflow.incomplete and its .parts, going on from what they hold when size and
  /// part size agree. Other programs never take these names for files of theirs. Throws IoError.
  PartFile(std::filesystem::path blob, int64_t size, int64_t part_bytes);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  [[nodiscard]] const std::filesystem::path& data_path() const { return data_path_; }
  [[nodiscard]] size_t num_parts() const { return num_parts_; }
  [[nodiscard]] int64_t begin(size_t part) const;
  [[nodiscard]] int64_t length(size_t part) const;
  [[nodiscard]] int64_t done(size_t part) const { return done_[part]; }
  [[nodiscard]] int64_t total_done() const;

  /// Appends to a part; `bytes` must fit. Throws IoError, for a full disk saying so.
  void append(size_t part, std::span<const std::byte> bytes);
  /// Notes how far the part is, for a later process. Throws IoError.
  void note(size_t part);
  /// Puts the part's data on the disk, then note(). Throws IoError.
  void save(size_t part);
  /// Forgets what has arrived and goes on with parts of `part_bytes`.
  void restart(int64_t part_bytes);
  /// Flushes the data and renames it to the blob's name; the object is done then. Throws IoError.
  void publish();
  /// Removes both files; the object is done then.
  void discard() noexcept;

 private:
  void load();

  std::filesystem::path blob_;
  std::filesystem::path data_path_;
  std::filesystem::path state_path_;
  int64_t size_;
  int64_t part_bytes_;
  size_t num_parts_ = 0;
  int data_ = -1;
  int state_ = -1;
  std::unique_ptr<std::atomic<int64_t>[]> done_;
  std::unique_ptr<int64_t[]> noted_;
};

/// Writes all of `bytes` at `offset`. Throws IoError; a full disk is named as such.
void write_at(int file, std::span<const std::byte> bytes, int64_t offset,
              const std::filesystem::path& path);

/// Disk that a partly written file of this blob has reserved already, 0 without one.
int64_t reserved_bytes(const std::filesystem::path& blob);

}  // namespace nanoflow
