// Finds added tokens (chat markers and the like) in text.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/text_span.h"

namespace nanoflow {

/// One text to look for.
struct AddedTokenPattern {
  std::string content;
  int32_t id = -1;
  bool lstrip = false;       ///< swallows white space to its left
  bool rstrip = false;       ///< ... to its right
  bool single_word = false;  ///< only where no word character is beside it
  bool special = false;      ///< a control token, which literal text does not spell
  /// Bytes at the start of `content` that are not the token's own: what a normaliser puts in front
  /// of any text. They may be literal.
  size_t lead = 0;
};

/// A trie over the tokens' bytes. Immutable; thread-safe.
class AddedTokenMatcher {
 public:
  struct Match {
    size_t begin = 0;  ///< with stripped white space
    size_t end = 0;
    int32_t id = -1;
  };

  explicit AddedTokenMatcher(const std::vector<AddedTokenPattern>& patterns = {});

  [[nodiscard]] bool empty() const { return patterns_.empty(); }

  /// The first match at or after `pos`, the longest of those that start there; id -1 if none.
  /// `pos` is where the previous match ended. Special tokens that share a byte with `literal` (in
  /// order, disjoint) are no match. Time: the text's length times the longest token's, and
  /// logarithmic in the spans for each special token found.
  [[nodiscard]] Match find(std::string_view text, size_t pos,
                           std::span<const TextSpan> literal = {}) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;
    int32_t pattern = -1;
  };

  void insert(std::string_view content, int32_t pattern);
  [[nodiscard]] const Node* child(const Node& node, unsigned char byte) const;
  [[nodiscard]] Match apply_rules(std::string_view text, size_t floor, size_t begin,
                                  const AddedTokenPattern& pattern) const;

  std::vector<AddedTokenPattern> patterns_;
  std::vector<Node> nodes_;
  std::array<bool, 256> starts_{};  // bytes that start some token
};

}  // namespace nanoflow
