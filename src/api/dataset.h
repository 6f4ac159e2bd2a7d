// Data sets in: files of prompts in the formats people have. Each item becomes an OpenAI request
// body. What one bad line causes stays with that line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/line_reader.h"
#include "base/json.h"
#include "base/result.h"

namespace nanoflow {

/// Which endpoint's schema a body follows.
enum class Endpoint : uint8_t { kCompletions, kChatCompletions };

/// One request of a data set.
struct DatasetItem {
  int64_t index = 0;      ///< 0-based line (JSONL) or array element (ShareGPT)
  std::string custom_id;  ///< the item's "custom_id" or "id", else "request-<index>"
  Endpoint endpoint = Endpoint::kCompletions;
  Result<Json> body;  ///< an object, or why this line is none
  /// The body is a record of a data set, whose other columns are no request fields.
  bool is_record = false;
};

/// Reads a data set item by item; the format is recognised from the content:
///   - OpenAI batch JSONL: {"custom_id", "method": "POST", "url": "/v1/...", "body": {...}}
///   - plain JSONL: {"prompt": ...} or {"messages": [...]}, with any other body field beside it
///   - ShareGPT JSON: an array of {"id", "conversations": [{"from": "human", "value": ...}, ...]};
///   the first human turn (and a system turn before it) is the prompt, as throughput benchmarks use
///   it; such objects may also be lines of JSONL, and objects of the other formats elements of an
///   array
/// JSONL is streamed; memory stays at one line. Lines over kMaxLineBytes are refused, not read.
/// Also reads standard input and pipes, whose items are not counted in advance.
class DatasetReader {
 public:
  static constexpr int64_t kMaxLineBytes = int64_t{64} << 20;
  static constexpr int64_t kMaxArrayBytes = int64_t{4} << 30;  ///< of a pipe

  /// "-" is standard input. Throws IoError when the file cannot be read and FormatError when it is
  /// none of the formats at all; what comes from a pipe is looked at by ready() and next().
  explicit DatasetReader(const std::filesystem::path& path);

  /// Whether next() has its answer without waiting for whoever writes to the pipe. Always true of a
  /// file. Throws like the constructor.
  [[nodiscard]] bool ready();
  /// The next item; nullopt at the end. Blank lines are skipped but keep their index. Throws
  /// IoError also when a file ends before all items that it had at first.
  [[nodiscard]] std::optional<DatasetItem> next();

  /// Items in the whole file, for progress bars (non-blank lines, or array elements); 0: not known
  /// in advance.
  [[nodiscard]] int64_t count() const { return count_; }
  /// Whether a second reader of the same path would see the same items.
  [[nodiscard]] bool is_regular() const { return lines_.is_regular(); }

 private:
  enum class Form : uint8_t { kUnknown, kLines, kArray };

  void count_lines();
  bool recognise(bool wait);
  bool read_array();
  std::optional<DatasetItem> next_line();

  std::filesystem::path path_;
  LineReader lines_;
  Form form_ = Form::kUnknown;
  int64_t next_index_ = 0;
  int64_t count_ = 0;
  int64_t delivered_ = 0;
  std::string array_text_;          // arrays: what has come of it
  bool is_parsed_ = false;          // arrays: items_ is set
  std::vector<DatasetItem> items_;  // arrays: the file is one JSON value
};

/// Parses one line of either JSONL format. Exposed for tests and fuzzing.
DatasetItem parse_dataset_line(int64_t index, std::string_view line);

}  // namespace nanoflow
