// How the tests of this folder ask for a refusal: FormatError whose line names the file and holds
// the words given.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "base/error.h"

namespace nanoflow::testing {

/// Runs `parse`, which must throw FormatError with one line that starts with `name` and contains
/// `words`. Everything here is small, so it must also be quick: a size that a file only declares
/// costs neither time nor memory.
template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  const auto start = std::chrono::steady_clock::now();
  try {
    parse();
    ADD_FAILURE() << "was accepted; expected a refusal with \"" << words << "\"";
  } catch (const FormatError& error) {
    const std::string line = error.what();
    EXPECT_NE(line.find(words), std::string::npos) << line << "\n  lacks \"" << words << "\"";
    EXPECT_EQ(line.find(name), 0u) << line;
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    EXPECT_LT(line.size(), 600u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace nanoflow::testing
