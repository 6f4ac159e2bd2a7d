// Finds stop strings in streamed text, across any borders between its parts.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace nanoflow {

/// Watches one sequence's text for its stop strings and holds back what may still become one.
/// The stop that is complete first wins (of those complete at the same byte, the longest), so the
/// outcome does not depend on how the text was cut. Not thread-safe.
class StopStrings final {
 public:
  /// No stop strings: push() hands everything through.
  StopStrings() = default;

  /// `include_in_output`: the stop string itself is kept in the output.
  /// Error kInvalidArgument (param "stop") when a string is empty or not valid UTF-8.
  [[nodiscard]] static Result<StopStrings> create(std::vector<std::string> stops,
                                                  bool include_in_output = false);

  /// Takes the next part of the text (whole UTF-8 characters) and returns what may be shown now.
  /// After a stop was found everything that follows is swallowed. A stop that is complete within
  /// this part counts only if `may_stop`; one that began in a part that may not stop, always.
  [[nodiscard]] std::string push(std::string_view text, bool may_stop = true);

  /// The end of the text without a stop: what was held back. "" after a stop.
  [[nodiscard]] std::string finish();

  /// Whether a stop string was found.
  [[nodiscard]] bool stopped() const { return matched_.has_value(); }
  /// Index into the strings given to create() of the one that was found.
  [[nodiscard]] std::optional<size_t> matched_index() const { return matched_; }
  /// The string that was found. Requires stopped() (NANO_CHECKed).
  [[nodiscard]] const std::string& matched() const;

 private:
  // One Knuth-Morris-Pratt automaton per string: memory is linear in what the request sent.
  struct Pattern {
    std::string text;
    std::vector<size_t> fail;  // fail[i]: longest proper border of text[0, i)
    size_t state = 0;          // bytes of `text` that the end of the input matches
  };

  std::vector<Pattern> patterns_;
  bool include_in_output_ = false;
  std::string held_;  // text not shown yet: at most the longest string minus one byte
  std::optional<size_t> matched_;
};

}  // namespace nanoflow
