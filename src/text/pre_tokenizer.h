// Cuts normalised text into the pieces that BPE works on, step by step as a tokenizer.json
// declares.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/piece_scanners.h"
#include "text/regex_splitter.h"

namespace nanoflow {

/// Receives pieces left to right. The view is valid during the call only.
class PieceSink {
 public:
  virtual ~PieceSink() = default;
  virtual void piece(std::string_view text) = 0;
};

/// What happens to the matches of a Split (Hugging Face's SplitDelimiterBehavior).
enum class SplitBehavior : uint8_t {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

/// Split by a literal text or a regular expression.
struct SplitStep {
  std::variant<std::string, std::shared_ptr<const RegexSplitter>> pattern;  // shared: copies of a
                                                                            // step are cheap
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};

/// Immutable; thread-safe.
class PreTokenizer {
 public:
  using Step = std::variant<PiecePattern, SplitStep>;
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  [[nodiscard]] bool empty() const { return steps_.empty(); }

  /// Without steps the text is one piece. Empty pieces are left out.
  /// False when a pattern needs unbounded work on this text.
  [[nodiscard]] bool split(std::string_view text, PieceSink& sink) const {
    return text.empty() || run(0, text, sink);
  }

 private:
  [[nodiscard]] bool run(size_t step, std::string_view text, PieceSink& sink) const;
  [[nodiscard]] bool run_split(const SplitStep& split, size_t step, std::string_view text,
                               PieceSink& sink) const;

  std::vector<Step> steps_;
};

}  // namespace nanoflow
