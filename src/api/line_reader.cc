#include "api/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

constexpr size_t kChunkBytes = 64 << 10;
constexpr size_t kMaxLeadingBlanks = 1 << 20;
constexpr size_t kMaxDrainBytes = 64 << 20;  // then the caller checks how much it has
constexpr int kLongestWaitMs = 100;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_space(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0;
}

}  // namespace

LineReader::LineReader(const std::filesystem::path& path, int64_t max_line_bytes)
    : path_(path), max_line_bytes_(max_line_bytes) {
  const bool standard_input = path == "-";
  if (standard_input) path_ = "standard input";
  fd_ = standard_input ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                       : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw IoError(path_.string(), fmt::format("cannot open: {}", std::strerror(errno)));
  struct stat info {};
  const bool known = ::fstat(fd_, &info) == 0;
  regular_ = known && S_ISREG(info.st_mode) && !standard_input;
  if (known && S_ISDIR(info.st_mode)) {
    ::close(fd_);
    throw IoError(path_.string(), "is a folder; name a file");
  }
}

LineReader::~LineReader() {
  ::close(fd_);
}

/// Reads once. False: nothing has come and `wait` is false, or the input has ended.
bool LineReader::read_more(bool wait) {
  while (!ended_) {
    if (!wait) {
      struct pollfd poll = {.fd = fd_, .events = POLLIN, .revents = 0};
      if (::poll(&poll, 1, 0) <= 0) return false;
    }
    buffer_.erase(0, position_);
    position_ = 0;
    const size_t old_size = buffer_.size();
    buffer_.resize(old_size + kChunkBytes);
    const ssize_t got = ::read(fd_, buffer_.data() + old_size, kChunkBytes);
    buffer_.resize(old_size + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got > 0) return true;
    if (got == 0) ended_ = true;
    if (got < 0 && errno == EAGAIN && wait) this->wait();  // a pipe that another process made so
    if (got < 0 && errno != EINTR && errno != EAGAIN)
      throw IoError(path_.string(), fmt::format("cannot read: {}", std::strerror(errno)));
  }
  return false;
}

bool LineReader::skip_mark(bool wait) {
  if (mark_skipped_) return true;
  while (buffer_.size() < kByteOrderMark.size() && kByteOrderMark.starts_with(buffer_)) {
    if (!read_more(wait)) break;
  }
  if (buffer_.size() < kByteOrderMark.size() && kByteOrderMark.starts_with(buffer_) && !ended_)
    return false;
  if (std::string_view(buffer_).starts_with(kByteOrderMark)) position_ = kByteOrderMark.size();
  mark_skipped_ = true;
  return true;
}

bool LineReader::find_first_byte(bool wait) {
  if (!skip_mark(wait)) return false;
  for (size_t checked = 0;;) {
    const auto begin = buffer_.begin() + static_cast<ptrdiff_t>(position_ + checked);
    const auto found = std::find_if_not(begin, buffer_.end(), is_space);
    checked += static_cast<size_t>(found - begin);
    if (found != buffer_.end() || checked > kMaxLeadingBlanks) return true;
    if (!read_more(wait)) return ended_;
  }
}

std::optional<char> LineReader::first_byte() {
  (void)find_first_byte(true);
  const auto begin = buffer_.begin() + static_cast<ptrdiff_t>(position_);
  const auto found = std::find_if_not(begin, buffer_.end(), is_space);
  return found == buffer_.end() ? std::nullopt : std::optional<char>(*found);
}

bool LineReader::collect_line(bool wait) {
  if (has_line_) return true;
  if (!skip_mark(wait)) return false;
  while (true) {
    const size_t newline = buffer_.find('\n', position_);
    const size_t end = newline == std::string::npos ? buffer_.size() : newline;
    const auto room = static_cast<size_t>(
        std::max<int64_t>(0, max_line_bytes_ + 1 - static_cast<int64_t>(line_.size())));
    has_bytes_ |= end > position_ || newline != std::string::npos;
    line_.append(buffer_, position_, std::min(room, end - position_));
    position_ = newline == std::string::npos ? end : newline + 1;
    if (newline != std::string::npos || ended_) {
      has_line_ = true;
      return true;
    }
    if (!read_more(wait) && !ended_) return false;
  }
}

bool LineReader::next(std::string& line) {
  (void)collect_line(true);
  line = std::move(line_);
  line_.clear();
  const bool there = has_bytes_;
  has_line_ = false;
  has_bytes_ = false;
  return there;
}

bool LineReader::drain_available(std::string& out) {
  if (!skip_mark(false)) return false;
  size_t taken = 0;
  do {
    taken += buffer_.size() - position_;
    out.append(buffer_, position_);
    buffer_.clear();
    position_ = 0;
  } while (taken < kMaxDrainBytes && read_more(false));
  return ended_;
}

void LineReader::wait() const {
  struct pollfd poll = {.fd = fd_, .events = POLLIN, .revents = 0};
  (void)::poll(&poll, 1, kLongestWaitMs);
}

}  // namespace nanoflow
