// Results on stdout: what cannot be written is an error, never a loss without a word.
#pragma once

#include <string_view>

#include "base/error.h"

namespace nanoflow {

/// Whoever read stdout has gone ("| head"): the program ends without a message.
class OutputClosed : public EnvironmentError {
 public:
  OutputClosed() : EnvironmentError("stdout was closed") {}
};

/// Exit code after OutputClosed: 128 + SIGPIPE, as of a program that the signal ends.
inline constexpr int kOutputClosedExit = 141;

/// Writes all of `text` to stdout at once (no buffering). Throws OutputClosed, or IoError.
void write_stdout(std::string_view text);

}  // namespace nanoflow
