// Results of a batch on disk: one JSON line per request, in OpenAI's batch output format, so that a
// run that was interrupted can go on with nothing lost, doubled or mixed up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace nanoflow {

/// Names the data set item at `index` in responses: "batch_req_7".
std::string batch_request_id(int64_t index);

/// One output line: {"id", "custom_id", "response": {"status_code", "request_id", "body"},
/// "error"}. Its id is batch_request_id() and `fingerprint`, which says what was asked.
Json batch_line(int64_t index, uint64_t fingerprint, const std::string& custom_id, int status,
                Json body);

/// Appends lines to a file as they come: one write() each, so that a line is whole on disk or cut
/// off at the file's end, however the process ends. finish() puts them in input order. The file is
/// locked against a second run. Not thread-safe.
class BatchOutput {
 public:
  enum class Mode : uint8_t { kCreate, kOverwrite, kResume };

  /// kCreate refuses an existing non-empty file. kOverwrite empties it at the first write. kResume
  /// keeps the lines of requests that succeeded and drops those that failed (they are served again)
  /// and a half-written last one. What is no regular file (a pipe) takes lines, but can be neither
  /// resumed nor put in order. Throws IoError (another run has the file, ...), ConfigError
  /// (`in_input_order` or kResume for a pipe), or FormatError when a line to resume from is none of
  /// ours.
  BatchOutput(const std::filesystem::path& path, Mode mode, bool in_input_order);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  /// Whether an earlier run served this item. Throws FormatError when it was asked something else:
  /// the output is of another data set, or of other options.
  [[nodiscard]] bool is_done(int64_t index, uint64_t fingerprint) const;
  /// Items that earlier runs served.
  [[nodiscard]] int64_t num_done() const { return static_cast<int64_t>(done_.size()); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// Writes the line. Throws IoError (disk full, ...).
  void write(int64_t index, const Json& line);
  /// Puts the lines in input order if they shall be, and makes everything durable. Throws IoError;
  /// the lines are on disk even then.
  void finish();

 private:
  struct Line {
    int64_t index = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;  // with its '\n'
  };

  void open();
  void lock();
  void resume();
  void empty_file();
  void rewrite(const std::vector<Line>& lines);
  void append(int fd, std::string_view text) const;

  std::filesystem::path path_;
  int fd_ = -1;
  bool regular_ = true;
  bool in_input_order_;
  bool empty_first_ = false;          // before the first write
  std::map<int64_t, uint64_t> done_;  // index -> fingerprint, of earlier runs
  std::vector<Line> lines_;           // as they lie in the file; regular files only
  uint64_t end_ = 0;                  // bytes of whole lines
};

}  // namespace nanoflow
