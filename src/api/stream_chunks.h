// StreamChunks: the server-sent events of one streamed Completion, as OpenAI's clients and those of
// vLLM read them: one event per token, the role with the first text (tools take the first event for
// the first token), usage in a last chunk without choices, "[DONE]" at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/completion.h"

namespace nanoflow {

class StreamChunks {
 public:
  /// `completion` must outlive this. `created_s`: Unix time in seconds.
  StreamChunks(const Completion& completion, int64_t created_s);

  /// Appends what `delta`, the completion's latest, gives a client: one event, or none while its
  /// text is not certain yet.
  void append(const ChoiceDelta& delta, std::string& out);
  /// Appends what ends the stream: usage if it was asked for, and "[DONE]".
  void append_end(std::string& out) const;
  /// Appends an error, after which the stream ends: the status line has gone out long ago.
  static void append_error(const Error& error, std::string& out);

 private:
  void append_chat(const ChoiceDelta& delta, std::string& out) const;
  void append_tool_calls(const ChoiceDelta& delta, std::string& out) const;
  void append_completion(const ChoiceDelta& delta, std::string& out) const;
  void append_logprobs(const ChoiceDelta& delta, std::string& out) const;
  void append_tail(const ChoiceDelta& delta, std::string& out) const;
  void append_usage(std::string& out) const;

  const Completion* completion_;
  std::string head_;           // of every event, up to the choice's index
  std::vector<bool> started_;  // per choice: an event has gone out
};

}  // namespace nanoflow
