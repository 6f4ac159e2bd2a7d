// What one event of a streamed OpenAI answer means to a load test, found without parsing it all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nanoflow {

struct StreamEvent {
  enum class Kind : uint8_t {
    kToken,  ///< a chunk with choices
    kUsage,  ///< a chunk without choices
    kError,  ///< an error in the stream, or no chunk at all
    kDone,   ///< "[DONE]"
  };
  Kind kind = Kind::kError;
  int64_t prompt_tokens = -1;      ///< of kUsage; -1: not told
  int64_t completion_tokens = -1;  ///< of kUsage; -1: not told
  std::string error;               ///< of kError
};

/// Reads the value of a "data:" line.
[[nodiscard]] StreamEvent read_stream_event(std::string_view data);

/// The message of an error answer's body, or the body's beginning where it has none.
[[nodiscard]] std::string error_message(std::string_view body);

}  // namespace nanoflow
