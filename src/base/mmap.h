// Read-only memory mapping of a whole file, and small file helpers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace nanoflow {

/// Owns a read-only, private mapping of a file. Move-only. Safe to read from any thread.
class MappedFile {
 public:
  /// Throws IoError (with the path and errno's text) when the file cannot be opened or mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Copies out.size() bytes from `offset` on; the range must lie inside bytes(). Faster than
  /// reading bytes() where that is the first touch, since no page is mapped for it. Throws IoError.
  void read(size_t offset, std::span<std::byte> out) const;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Tells the kernel that [offset, offset + size) is not needed any more, so that streaming
  /// through a large checkpoint does not keep it resident.
  void drop_pages(size_t offset, size_t size) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
};

/// True when something is at `path` (links are followed). Throws IoError where that cannot be told:
/// no permission, a loop of links, too long a name.
bool file_exists(const std::filesystem::path& path);

/// True for a folder. Throws IoError as file_exists() does.
bool is_folder(const std::filesystem::path& path);

/// Whole file as a string. Throws IoError.
std::string read_file(const std::filesystem::path& path);

/// Writes to a temporary sibling, fsyncs and renames over `path`, so readers never see half a file.
/// Throws IoError naming `path`.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Throws IoError when write_file_atomically(path) is bound to fail: for use before long work whose
/// result goes there. Leaves nothing behind.
void require_writable(const std::filesystem::path& path);

}  // namespace nanoflow
