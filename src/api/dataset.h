// Data sets in: files of prompts in the formats people have. Each item becomes an OpenAI request
// body. What one bad line causes stays with that line.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

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
};

/// Reads a data set item by item; the format is recognised from the content:
///   - OpenAI batch JSONL: {"custom_id", "method": "POST", "url": "/v1/...", "body": {...}}
///   - plain JSONL: {"prompt": ...} or {"messages": [...]}, with any other body field beside it
///   - ShareGPT JSON: an array of {"id", "conversations": [{"from": "human", "value": ...}, ...]};
///   the first human turn (and a system turn before it) is the prompt, as throughput benchmarks use
///   it; such objects may also be lines of JSONL, and objects of the other formats elements of an
///   array
/// JSONL is streamed; memory stays at one line. Lines over kMaxLineBytes are refused, not read.
class DatasetReader {
 public:
  static constexpr int64_t kMaxLineBytes = int64_t{64} << 20;

  /// Throws IoError when the file cannot be read and FormatError when it is none of the formats at
  /// all.
  explicit DatasetReader(const std::filesystem::path& path);

  /// The next item; nullopt at the end. Blank lines are skipped but keep their index.
  [[nodiscard]] std::optional<DatasetItem> next();

  /// Items in the whole file, for progress bars (non-blank lines, or array elements).
  [[nodiscard]] int64_t count() const { return count_; }

 private:
  void read_array(const std::filesystem::path& path);

  std::ifstream file_;
  int64_t next_index_ = 0;
  int64_t count_ = 0;
  bool is_array_ = false;
  std::vector<DatasetItem> items_;  // arrays only: the file is one JSON value
};

/// Parses one line of either JSONL format. Exposed for tests and fuzzing.
DatasetItem parse_dataset_line(int64_t index, std::string_view line);

}  // namespace nanoflow
