#include "api/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"

namespace nanoflow {
namespace {

constexpr std::string_view kIdPrefix = "batch_req_";
constexpr int kOk = 200;

/// What a line to resume from says of itself.
struct LineHead {
  int64_t index = 0;
  uint64_t fingerprint = 0;
  bool succeeded = false;
};

/// Takes a number off the front of `text`.
template <typename T>
bool take_number(std::string_view& text, T& out, int base) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out, base);
  if (parsed.ec != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(parsed.ptr - text.data()));
  return true;
}

std::optional<LineHead> head_of(std::string_view text) {
  const Result<Json> line = parse_json(text);
  if (!line.has_value()) return std::nullopt;
  const Json* id = line->find("id");
  if (id == nullptr || !id->is_string() || !id->as_string().starts_with(kIdPrefix))
    return std::nullopt;
  std::string_view rest = std::string_view(id->as_string()).substr(kIdPrefix.size());
  LineHead head;
  if (!take_number(rest, head.index, 10) || head.index < 0 || !rest.starts_with('_'))
    return std::nullopt;
  rest.remove_prefix(1);
  if (!take_number(rest, head.fingerprint, 16) || !rest.empty()) return std::nullopt;
  const Json* response = line->find("response");
  const Json* status = response != nullptr ? response->find("status_code") : nullptr;
  head.succeeded = status != nullptr && status->is_int() && status->as_int() == kOk;
  return head;
}

std::string errno_text() {
  return std::strerror(errno);
}

}  // namespace

std::string batch_request_id(int64_t index) {
  return fmt::format("{}{}", kIdPrefix, index);
}

Json batch_line(int64_t index, uint64_t fingerprint, const std::string& custom_id, int status,
                Json body) {
  return Json::object({{"id", fmt::format("{}{}_{:016x}", kIdPrefix, index, fingerprint)},
                       {"custom_id", custom_id},
                       {"response", Json::object({{"status_code", status},
                                                  {"request_id", batch_request_id(index)},
                                                  {"body", std::move(body)}})},
                       {"error", nullptr}});
}

BatchOutput::BatchOutput(const std::filesystem::path& path, Mode mode, bool in_input_order)
    : path_(path), in_input_order_(in_input_order) {
  try {
    open();
    if (!regular_) {
      if (in_input_order)
        throw ConfigError("--order", fmt::format("{} is no regular file, so its lines cannot be "
                                                 "put in input order; use --order finished",
                                                 path.string()));
      if (mode == Mode::kResume)
        throw ConfigError("--resume", path.string() + " is no regular file");
      return;
    }
    if (mode == Mode::kResume) {
      resume();
      return;
    }
    const bool has_content = ::lseek(fd_, 0, SEEK_END) > 0;
    if (mode == Mode::kCreate && has_content)
      throw IoError(path.string(), "exists; --resume goes on with it, --overwrite starts over");
    empty_first_ = has_content;
  } catch (...) {
    if (fd_ >= 0) ::close(fd_);
    throw;
  }
}

BatchOutput::~BatchOutput() {
  if (fd_ >= 0) ::close(fd_);
}

void BatchOutput::open() {
  struct stat named {};
  regular_ = ::stat(path_.c_str(), &named) != 0 || S_ISREG(named.st_mode);
  const int flags = regular_ ? O_RDWR | O_CREAT | O_APPEND : O_WRONLY;
  while (true) {
    fd_ = ::open(path_.c_str(), flags | O_CLOEXEC, 0644);
    if (fd_ < 0) throw IoError(path_.string(), "cannot open: " + errno_text());
    if (!regular_) return;
    lock();
    // A run that has just ended may have put a sorted file in the place of the one opened here.
    struct stat opened {};
    const bool same = ::fstat(fd_, &opened) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                      opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
    if (same) return;
    ::close(fd_);
  }
}

void BatchOutput::lock() {
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  if (errno == EWOULDBLOCK)
    throw IoError(path_.string(), "another run is writing to it; wait or name another file");
  // File systems without locks (some network mounts) cannot be used by two runs at once safely, but
  // by one.
  if (errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOLCK)
    throw IoError(path_.string(), "cannot lock: " + errno_text());
}

void BatchOutput::resume() {
  const MappedFile file(path_);
  const std::string_view content(reinterpret_cast<const char*>(file.bytes().data()),
                                 file.bytes().size());
  size_t begin = 0;
  bool drops_lines = false;
  for (int64_t number = 1; begin < content.size(); ++number) {
    const size_t newline = content.find('\n', begin);
    if (newline == std::string_view::npos) break;  // cut off while it was written
    const std::optional<LineHead> head = head_of(content.substr(begin, newline - begin));
    if (!head.has_value())
      throw FormatError(
          path_.string(),
          fmt::format("line {} was not written by run-batch; it cannot be resumed", number));
    if (head->succeeded && done_.emplace(head->index, head->fingerprint).second) {
      lines_.push_back({head->index, begin, newline + 1 - begin});
    } else {
      drops_lines = true;
    }
    begin = newline + 1;
  }
  end_ = begin;
  if (drops_lines) return rewrite(lines_);
  if (begin < content.size() && ::ftruncate(fd_, static_cast<off_t>(begin)) != 0)
    throw IoError(path_.string(), "cannot drop its half-written last line: " + errno_text());
}

bool BatchOutput::is_done(int64_t index, uint64_t fingerprint) const {
  const auto found = done_.find(index);
  if (found == done_.end()) return false;
  if (found->second != fingerprint)
    throw FormatError(path_.string(),
                      fmt::format("answers another request than item {} of the data set: the data "
                                  "set, the model or a default such as --max-tokens is not that "
                                  "of the run to resume; --overwrite starts over",
                                  index));
  return true;
}

void BatchOutput::write(int64_t index, const Json& line) {
  empty_file();
  std::string text = line.dump();
  text += '\n';
  append(fd_, text);
  if (!regular_) return;
  lines_.push_back({index, end_, text.size()});
  end_ += text.size();
}

void BatchOutput::empty_file() {
  if (!std::exchange(empty_first_, false)) return;
  if (::ftruncate(fd_, 0) != 0)
    throw IoError(path_.string(), "cannot be overwritten: " + errno_text());
}

void BatchOutput::append(int fd, std::string_view text) const {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      throw IoError(
          path_.string(),
          fmt::format("cannot write: {}; make room and run again with --resume", errno_text()));
    text.remove_prefix(static_cast<size_t>(written));
  }
}

/// Replaces the file by one with these of its lines, in this order. Readers and a killed process
/// see the old file or the new one.
void BatchOutput::rewrite(const std::vector<Line>& lines) {
  std::error_code error;
  const std::filesystem::path target = std::filesystem::canonical(path_, error);
  if (error) throw IoError(path_.string(), "cannot be found again: " + error.message());
  // The name is fixed and the file locked, so that a killed run's leftover is used up.
  const std::filesystem::path temporary = target.string() + ".nanoflow-tmp";
  const int old_fd = fd_;
  const MappedFile old(path_);
  struct stat info {};
  if (old.bytes().size() < end_ || ::fstat(old_fd, &info) != 0)
    throw IoError(path_.string(), "was changed by somebody else while it was written");
  fd_ = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  try {
    if (fd_ < 0) throw IoError(path_.string(), "cannot create a file beside it: " + errno_text());
    lock();
    (void)::fchmod(fd_, info.st_mode & 07777);  // as far as we may: it stays readable for its owner
    std::vector<Line> moved;
    uint64_t end = 0;
    for (const Line& line : lines) {
      append(fd_, {reinterpret_cast<const char*>(old.bytes().data()) + line.offset, line.bytes});
      moved.push_back({line.index, end, line.bytes});
      end += line.bytes;
    }
    if (::fsync(fd_) != 0) throw IoError(path_.string(), "cannot sync: " + errno_text());
    std::filesystem::rename(temporary, target, error);
    if (error) throw IoError(path_.string(), "cannot be replaced: " + error.message());
    lines_ = std::move(moved);
    end_ = end;
  } catch (...) {
    std::filesystem::remove(temporary, error);
    if (fd_ >= 0) ::close(fd_);
    fd_ = old_fd;
    throw;
  }
  ::close(old_fd);
}

void BatchOutput::finish() {
  empty_file();
  const auto by_index = [](const Line& a, const Line& b) { return a.index < b.index; };
  if (in_input_order_ && !std::is_sorted(lines_.begin(), lines_.end(), by_index)) {
    std::vector<Line> sorted = lines_;
    std::sort(sorted.begin(), sorted.end(), by_index);
    return rewrite(sorted);
  }
  // Pipes and terminals cannot be synced; that is no error.
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
    throw IoError(path_.string(), "cannot sync: " + errno_text());
}

}  // namespace nanoflow
