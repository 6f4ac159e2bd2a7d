// What happens to text before it is cut: Unicode forms, and SentencePiece's spaces.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/unicode.h"

namespace nanoflow {

/// Puts `text` in front of every text that is not empty.
struct PrependStep {
  std::string text;
};

/// Replaces every `from` (not empty) by `to`.
struct ReplaceStep {
  std::string from;
  std::string to;
};

/// Immutable; thread-safe.
class Normalizer {
 public:
  using Step = std::variant<UnicodeForm, PrependStep, ReplaceStep>;
  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  /// The normalised form of `text` (valid UTF-8): `text` itself where nothing changes, else a view
  /// of `buffer`. `at_start` false leaves out what is put in front: `text` continues another.
  [[nodiscard]] std::string_view normalize(std::string_view text, std::string& buffer,
                                           bool at_start = true) const;

 private:
  std::vector<Step> steps_;
};

/// `text` with every `from` (not empty) replaced by `to`.
[[nodiscard]] std::string replace_all(std::string_view text, std::string_view from,
                                      std::string_view to);

}  // namespace nanoflow
