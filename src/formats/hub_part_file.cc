#include "formats/hub_part_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNoteEveryBytes = int64_t{1} << 20;

/// First bytes of the state file; then one int64_t per part, in this machine's byte order.
struct StateHeader {
  char magic[16] = "nanoflow parts1";
  int64_t size = 0;
  int64_t part_bytes = 0;
};

[[noreturn]] void throw_io(const fs::path& path, int code) {
  if (code == ENOSPC || code == EDQUOT)
    throw IoError(path.string(),
                  fmt::format("{}; what has arrived is kept: free some space, or "
                              "set HF_HUB_CACHE to another disk, and run again",
                              code == ENOSPC ? "the disk is full" : "the disk quota is used up"));
  throw IoError(path.string(), std::strerror(code));
}

fs::path with_suffix(const fs::path& blob, const char* suffix) {
  return blob.string() + suffix;
}

int open_file(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) throw_io(path, errno);
  return file;
}

}  // namespace

void write_at(int file, std::span<const std::byte> bytes, int64_t offset, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(file, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_io(path, written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

int64_t reserved_bytes(const fs::path& blob) {
  struct stat info {};
  if (::stat(with_suffix(blob, ".nanoflow.incomplete").c_str(), &info) != 0) return 0;
  return static_cast<int64_t>(info.st_blocks) * 512;  // POSIX's unit of st_blocks on Linux
}

PartFile::PartFile(fs::path blob, int64_t size, int64_t part_bytes)
    : blob_(std::move(blob)),
      data_path_(with_suffix(blob_, ".nanoflow.incomplete")),
      state_path_(with_suffix(blob_, ".nanoflow.parts")),
      size_(size),
      part_bytes_(part_bytes) {
  NANO_CHECK(size >= 0 && part_bytes > 0, "{} {}", size, part_bytes);
  data_ = open_file(data_path_);
  state_ = open_file(state_path_);
  load();
}

PartFile::~PartFile() {
  if (data_ >= 0) ::close(data_);
  if (state_ >= 0) ::close(state_);
}

int64_t PartFile::begin(size_t part) const {
  return static_cast<int64_t>(part) * part_bytes_;
}

int64_t PartFile::length(size_t part) const {
  return std::min(part_bytes_, size_ - begin(part));
}

int64_t PartFile::total_done() const {
  int64_t total = 0;
  for (size_t part = 0; part < num_parts_; ++part) total += done_[part];
  return total;
}

void PartFile::load() {
  StateHeader header;
  struct stat data {
  }, state{};
  const bool known =
      ::pread(state_, &header, sizeof header, 0) == static_cast<ssize_t>(sizeof header) &&
      std::memcmp(header.magic, StateHeader{}.magic, sizeof header.magic) == 0 &&
      header.size == size_ && header.part_bytes > 0 && ::fstat(data_, &data) == 0 &&
      data.st_size == size_ && ::fstat(state_, &state) == 0 &&
      state.st_size == static_cast<off_t>(sizeof header) +
                           static_cast<off_t>(sizeof(int64_t)) *
                               (size_ / header.part_bytes + (size_ % header.part_bytes != 0));
  if (!known) {
    restart(part_bytes_);
    return;
  }
  part_bytes_ = header.part_bytes;  // of the run that began: its parts are what is on the disk
  num_parts_ = static_cast<size_t>(size_ / part_bytes_ + (size_ % part_bytes_ != 0));
  done_ = std::make_unique<std::atomic<int64_t>[]>(num_parts_);
  noted_ = std::make_unique<int64_t[]>(num_parts_);
  const auto bytes = static_cast<ssize_t>(num_parts_ * sizeof(int64_t));
  bool sound = ::pread(state_, noted_.get(), static_cast<size_t>(bytes), sizeof header) == bytes;
  for (size_t part = 0; part < num_parts_; ++part) {
    sound = sound && noted_[part] >= 0 && noted_[part] <= length(part);
    done_[part] = noted_[part];
  }
  if (!sound) restart(part_bytes_);
}

void PartFile::restart(int64_t part_bytes) {
  part_bytes_ = std::max<int64_t>(part_bytes, 1);
  num_parts_ = static_cast<size_t>(size_ / part_bytes_ + (size_ % part_bytes_ != 0));
  done_ = std::make_unique<std::atomic<int64_t>[]>(num_parts_);
  noted_ = std::make_unique<int64_t[]>(num_parts_);
  StateHeader header;
  header.size = size_;
  header.part_bytes = part_bytes_;
  // In this order: a crash in between leaves a state that claims nothing.
  if (::ftruncate(state_, 0) != 0) throw_io(state_path_, errno);
  if (::ftruncate(data_, size_) != 0) throw_io(data_path_, errno);
  // Reserving finds a full disk now and not after an hour; file systems without it do as they can.
  if (size_ > 0 && ::fallocate(data_, 0, 0, size_) != 0 && (errno == ENOSPC || errno == EDQUOT))
    throw_io(data_path_, errno);
  write_at(state_, std::as_bytes(std::span(&header, 1)), 0, state_path_);
  write_at(state_, std::as_bytes(std::span(noted_.get(), num_parts_)), sizeof header, state_path_);
}

void PartFile::append(size_t part, std::span<const std::byte> bytes) {
  const int64_t at = done_[part];
  NANO_CHECK(at + static_cast<int64_t>(bytes.size()) <= length(part), "part {}", part);
  write_at(data_, bytes, begin(part) + at, data_path_);
  done_[part] = at + static_cast<int64_t>(bytes.size());
  if (done_[part] - noted_[part] >= kNoteEveryBytes) note(part);
}

void PartFile::note(size_t part) {
  noted_[part] = done_[part];
  write_at(state_, std::as_bytes(std::span(&noted_[part], 1)),
           static_cast<int64_t>(sizeof(StateHeader) + part * sizeof(int64_t)), state_path_);
}

void PartFile::save(size_t part) {
  if (::fdatasync(data_) != 0) throw_io(data_path_, errno);
  note(part);
}

void PartFile::publish() {
  if (::fsync(data_) != 0) throw_io(data_path_, errno);
  std::error_code error;
  fs::rename(data_path_, blob_, error);
  if (error) throw IoError(blob_.string(), error.message());
  fs::remove(state_path_, error);
}

void PartFile::discard() noexcept {
  std::error_code error;
  fs::remove(data_path_, error);
  fs::remove(state_path_, error);
}

}  // namespace nanoflow
