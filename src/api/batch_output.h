// Results of a batch on disk: one JSON line per request, in OpenAI's batch output format, so that a
// run that was interrupted can go on with nothing lost or doubled.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "base/json.h"

namespace nanoflow {

/// Line "id" of the data set item at `index`: what resuming recognises finished items by.
std::string batch_line_id(int64_t index);

/// One output line: {"id", "custom_id", "response": {"status_code", "request_id", "body"},
/// "error"}.
Json batch_line(int64_t index, const std::string& custom_id, int status, Json body);

/// Appends lines to a file, in input order or as they come. A line is written with one write() and
/// is either whole on disk or cut off at its end, which resuming repairs. Not thread-safe.
class BatchOutput {
 public:
  enum class Mode : uint8_t { kCreate, kOverwrite, kResume };

  /// kCreate refuses an existing non-empty file. kResume keeps whole lines, drops a half-written
  /// last one, and knows which items are done. Throws IoError, or FormatError when a line to resume
  /// from is none of ours.
  BatchOutput(const std::filesystem::path& path, Mode mode, bool in_input_order);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  /// Whether an earlier run finished this item.
  [[nodiscard]] bool is_done(int64_t index) const { return done_.contains(index); }
  [[nodiscard]] int64_t num_done() const { return static_cast<int64_t>(done_.size()); }

  /// Tells the output that this item will come (every item that is not done, in input order).
  void expect(int64_t index);
  /// Writes the line, or keeps it until those before it have come. Throws IoError (disk full, ...).
  void write(int64_t index, const Json& line);
  /// Makes everything durable. Throws IoError.
  void sync();

 private:
  void append(const std::string& line);
  void resume();

  std::filesystem::path path_;
  int fd_ = -1;
  bool in_input_order_;
  std::set<int64_t> done_;
  std::set<int64_t> expected_;              // announced, not written yet
  std::map<int64_t, std::string> waiting_;  // come, but an earlier item has not
};

}  // namespace nanoflow
