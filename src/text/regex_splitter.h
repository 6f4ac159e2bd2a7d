// Regular expressions for pre-tokenisers that have no scanner, by PCRE2, with bounded work.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nanoflow {

/// A compiled pattern. Immutable; thread-safe.
class RegexSplitter {
 public:
  /// Throws ConfigError with the pattern when PCRE2 cannot compile it or would read it differently
  /// from Oniguruma (class intersections, \h).
  explicit RegexSplitter(const std::string& pattern);

  /// Appends the byte ranges [begin, end) of the non-empty matches in `text` (valid UTF-8), left to
  /// right. False when the work for it is not bounded linearly (a limit per byte was reached).
  [[nodiscard]] bool find_all(std::string_view text,
                              std::vector<std::pair<size_t, size_t>>& matches) const;

 private:
  struct Deleter {
    void operator()(void* code) const;
  };
  std::unique_ptr<void, Deleter> code_;  // pcre2_code
};

}  // namespace nanoflow
