#include "base/mmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {
namespace {

/// Closes a file descriptor at scope end.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }
  /// The caller closes it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

std::string errno_text() {
  return std::strerror(errno);
}

std::filesystem::file_status known_status(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::none)
    throw IoError(path.string(), "cannot look at it: " + error.message());
  return status;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) throw IoError(path.string(), "cannot open: " + errno_text());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) throw IoError(path.string(), "cannot stat: " + errno_text());
  if (!S_ISREG(info.st_mode)) throw IoError(path.string(), "is not a regular file");
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapping == MAP_FAILED) throw IoError(path.string(), "cannot map: " + errno_text());
  data_ = static_cast<const std::byte*>(mapping);
  fd_ = fd.release();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      fd_(std::exchange(other.fd_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}

void MappedFile::read(size_t offset, std::span<std::byte> out) const {
  NANO_CHECK(offset <= size_ && out.size() <= size_ - offset, "{} bytes at {} of {}", out.size(),
             offset, size_);
  while (!out.empty()) {
    const ssize_t n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError(path_.string(), "cannot read: " + errno_text());
    if (n == 0) throw IoError(path_.string(), "became shorter while it was read");
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<size_t>(n);
  }
}

void MappedFile::drop_pages(size_t offset, size_t size) const {
  if (data_ == nullptr) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = (offset + page - 1) / page * page;
  const size_t end = (offset + size) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

bool file_exists(const std::filesystem::path& path) {
  return std::filesystem::exists(known_status(path));
}

bool is_folder(const std::filesystem::path& path) {
  return std::filesystem::is_directory(known_status(path));
}

std::string read_file(const std::filesystem::path& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) throw IoError(path.string(), "cannot open: " + errno_text());
  std::string content;
  struct stat info {};
  if (::fstat(fd.get(), &info) == 0 && info.st_size > 0)
    content.reserve(static_cast<size_t>(info.st_size));
  std::string chunk(1 << 16, '\0');
  while (true) {
    const ssize_t n = ::read(fd.get(), chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError(path.string(), "cannot read: " + errno_text());
    if (n == 0) return content;
    content.append(chunk.data(), static_cast<size_t>(n));
  }
}

namespace {

void write_all(const FileDescriptor& fd, const std::filesystem::path& path,
               std::string_view content) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd.get(), content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError(path.string(), "cannot write: " + errno_text());
    content.remove_prefix(static_cast<size_t>(n));
  }
}

std::string temporary_suffix() {
  return fmt::format(".tmp.{}", ::gettid());
}

/// Where writing to `path` ends.
struct WriteTarget {
  bool in_place = false;       // a device or a pipe (/dev/stdout): a file in its place helps nobody
  std::filesystem::path file;  // what a link points to is replaced, not the link
  std::filesystem::path sibling;  // holds the content until it is complete
};

WriteTarget find_target(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const fs::file_status status = known_status(path);
  if (fs::is_directory(status)) throw IoError(path.string(), "is a folder");
  if (!fs::exists(status)) return {false, path, path.string() + temporary_suffix()};
  if (!fs::is_regular_file(status)) return {true, path, {}};
  std::error_code error;
  const fs::path file = fs::canonical(path, error);
  if (error) throw IoError(path.string(), "cannot be found: " + error.message());
  return {false, file, file.string() + temporary_suffix()};
}

int open_target(const WriteTarget& target) {
  return target.in_place
             ? ::open(target.file.c_str(), O_WRONLY | O_CLOEXEC)
             : ::open(target.sibling.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

}  // namespace

void require_writable(const std::filesystem::path& path) {
  const WriteTarget target = find_target(path);
  if (target.in_place) {
    // Opening a pipe would wait for its reader.
    if (::access(target.file.c_str(), W_OK) != 0)
      throw IoError(path.string(), "cannot write: " + errno_text());
    return;
  }
  const FileDescriptor fd(open_target(target));
  if (fd.get() < 0) throw IoError(path.string(), "cannot create: " + errno_text());
  ::unlink(target.sibling.c_str());
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  const WriteTarget target = find_target(path);
  const FileDescriptor fd(open_target(target));
  if (fd.get() < 0) throw IoError(path.string(), "cannot create: " + errno_text());
  if (target.in_place) return write_all(fd, path, content);
  try {
    write_all(fd, path, content);
    if (::fsync(fd.get()) != 0) throw IoError(path.string(), "cannot sync: " + errno_text());
    if (::rename(target.sibling.c_str(), target.file.c_str()) != 0)
      throw IoError(path.string(), "cannot replace: " + errno_text());
  } catch (...) {
    ::unlink(target.sibling.c_str());
    throw;
  }
}

}  // namespace nanoflow
