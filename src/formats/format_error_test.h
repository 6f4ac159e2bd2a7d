// How the tests of this folder ask for a refusal: FormatError whose line names the file and holds
// the words given.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow::format_testing {

/// Runs `parse`, which must throw FormatError with one short line that starts with `name` and
/// contains `words`. Everything here is small, so it must also be quick: a size that a file only
/// declares costs neither time nor memory. Returns "" or what is not so.
template <typename Parse>
std::string refusal_problem(Parse&& parse, std::string_view words, std::string_view name) {
  const auto start = std::chrono::steady_clock::now();
  try {
    parse();
    return fmt::format("was accepted; expected a refusal with \"{}\"", words);
  } catch (const FormatError& error) {
    const std::string line = error.what();
    if (line.find(words) == std::string::npos)
      return fmt::format("\"{}\" lacks \"{}\"", line, words);
    if (!line.starts_with(name)) return fmt::format("\"{}\" does not name {}", line, name);
    if (line.find('\n') != std::string::npos || line.size() > 600)
      return "not one short line: " + line;
  }
  const bool quick = std::chrono::steady_clock::now() - start < std::chrono::seconds(2);
  return quick ? "" : fmt::format("took long to refuse with \"{}\"", words);
}

}  // namespace nanoflow::format_testing
