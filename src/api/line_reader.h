// LineReader: lines of a file or a pipe, with bounded memory, and without waiting for a writer when
// the caller has other work.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace nanoflow {

/// Reads from a descriptor of its own. Not thread-safe.
class LineReader {
 public:
  /// Opens `path`, or takes standard input for "-". A UTF-8 byte order mark in front is skipped.
  /// Lines keep at most `max_line_bytes` + 1 bytes. Throws IoError, for a folder, too.
  LineReader(const std::filesystem::path& path, int64_t max_line_bytes);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// Whether the input can be read twice and has an end: a regular file.
  [[nodiscard]] bool is_regular() const { return regular_; }

  /// Whether first_byte() and next() have their answer without waiting. Throws IoError.
  [[nodiscard]] bool has_first_byte() { return find_first_byte(false); }
  [[nodiscard]] bool has_line() { return collect_line(false); }

  /// The first byte that is not white space, not consumed; nullopt: there is none (more than a
  /// mebibyte of white space counts as that, too). Call before any next(). Waits. Throws IoError.
  [[nodiscard]] std::optional<char> first_byte();
  /// The next line without its '\n'; false at the end. Waits. Throws IoError.
  [[nodiscard]] bool next(std::string& line);
  /// Moves what has come so far, lines or not, but not without end, to the end of `out`; true when
  /// the input has ended. Throws IoError.
  [[nodiscard]] bool drain_available(std::string& out);
  /// Waits until there is more to drain, or the end, or a signal, but a tenth of a second at most:
  /// a signal that comes just before the wait begins does not end it, so callers look again.
  void wait() const;

 private:
  bool find_first_byte(bool wait);
  bool collect_line(bool wait);
  bool skip_mark(bool wait);
  bool read_more(bool wait);

  std::filesystem::path path_;
  int64_t max_line_bytes_;
  int fd_ = -1;
  bool regular_ = false;
  bool mark_skipped_ = false;
  bool ended_ = false;
  std::string buffer_;  // read, not consumed from `position_` on
  size_t position_ = 0;
  std::string line_;        // what has come of the next line
  bool has_line_ = false;   // line_ is whole
  bool has_bytes_ = false;  // the line has begun: at the end of the input it counts
};

}  // namespace nanoflow
