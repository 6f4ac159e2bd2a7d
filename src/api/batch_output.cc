#include "api/batch_output.h"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/mmap.h"

namespace nanoflow {
namespace {

constexpr std::string_view kIdPrefix = "batch_req_";

std::optional<int64_t> index_of(const Json& line) {
  const Json* id = line.find("id");
  if (id == nullptr || !id->is_string() || !id->as_string().starts_with(kIdPrefix))
    return std::nullopt;
  const std::string_view digits = std::string_view(id->as_string()).substr(kIdPrefix.size());
  int64_t index = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  return index;
}

}  // namespace

std::string batch_line_id(int64_t index) {
  return fmt::format("{}{}", kIdPrefix, index);
}

Json batch_line(int64_t index, const std::string& custom_id, int status, Json body) {
  return Json::object({{"id", batch_line_id(index)},
                       {"custom_id", custom_id},
                       {"response", Json::object({{"status_code", status},
                                                  {"request_id", batch_line_id(index)},
                                                  {"body", std::move(body)}})},
                       {"error", nullptr}});
}

BatchOutput::BatchOutput(const std::filesystem::path& path, Mode mode, bool in_input_order)
    : path_(path), in_input_order_(in_input_order) {
  std::error_code ignored;
  if (mode == Mode::kCreate && std::filesystem::file_size(path, ignored) > 0 && !ignored)
    throw IoError(path.string(), "exists; --resume goes on with it, --overwrite starts over");
  if (mode == Mode::kResume && std::filesystem::exists(path, ignored)) resume();
  const int truncate = mode == Mode::kResume ? 0 : O_TRUNC;
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | truncate, 0644);
  if (fd_ < 0) throw IoError(path.string(), fmt::format("cannot open: {}", std::strerror(errno)));
}

BatchOutput::~BatchOutput() {
  if (fd_ >= 0) ::close(fd_);
}

void BatchOutput::resume() {
  const std::string content = read_file(path_);
  size_t begin = 0;
  for (int64_t number = 1; begin < content.size(); ++number) {
    const size_t end = content.find('\n', begin);
    if (end == std::string::npos) break;  // cut off while it was written
    const Result<Json> line = parse_json(std::string_view(content).substr(begin, end - begin));
    const std::optional<int64_t> index = line.has_value() ? index_of(*line) : std::nullopt;
    if (!index.has_value())
      throw FormatError(
          path_.string(),
          fmt::format("line {} was not written by run-batch; it cannot be resumed", number));
    done_.insert(*index);
    begin = end + 1;
  }
  if (begin == content.size()) return;
  std::error_code error;
  std::filesystem::resize_file(path_, begin, error);
  if (error)
    throw IoError(path_.string(), "cannot drop its half-written last line: " + error.message());
}

void BatchOutput::expect(int64_t index) {
  expected_.insert(index);
}

void BatchOutput::write(int64_t index, const Json& line) {
  NANO_CHECK(expected_.contains(index), "item {} was not announced or came twice", index);
  std::string text = line.dump();
  text += '\n';
  if (!in_input_order_) {
    expected_.erase(index);
    return append(text);
  }
  waiting_.emplace(index, std::move(text));
  while (!waiting_.empty() && waiting_.begin()->first == *expected_.begin()) {
    append(waiting_.begin()->second);
    waiting_.erase(waiting_.begin());
    expected_.erase(expected_.begin());
  }
}

void BatchOutput::append(const std::string& line) {
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(fd_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      throw IoError(path_.string(),
                    fmt::format("cannot write: {}; make room and run again with --resume",
                                std::strerror(errno)));
    rest.remove_prefix(static_cast<size_t>(written));
  }
}

void BatchOutput::sync() {
  // Pipes and terminals cannot be synced; that is no error.
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
    throw IoError(path_.string(), fmt::format("cannot sync: {}", std::strerror(errno)));
}

}  // namespace nanoflow
