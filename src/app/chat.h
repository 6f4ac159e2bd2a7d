// A conversation on the terminal, or one whose messages come through a pipe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "app/answer_stream.h"
#include "base/json.h"

namespace nanoflow {

struct ChatOptions {
  std::optional<std::string> system;
  int64_t max_tokens = 256;  ///< of an answer
  Json sampling;             ///< further fields of every request: an object
};

/// {"role": role, "content": content}
Json chat_message(const char* role, const std::string& content);

/// Answers stdin's lines until it ends; on a terminal also an empty line ends it (elsewhere it is
/// skipped). The conversation may outgrow the context: answers get shorter, then the oldest turns
/// are left out, with a note on stderr. Ctrl-C ends the answer on a terminal, and the chat at its
/// prompt. Returns the exit code. Throws IoError, OutputClosed.
int run_chat(AnswerStream& stream, const ChatOptions& options, int64_t max_model_len);

}  // namespace nanoflow
