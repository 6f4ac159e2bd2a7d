// One request at a time through the engine, its text streamed on stdout.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/completion.h"
#include "api/serving_stats.h"
#include "app/serving_stack.h"
#include "base/json.h"
#include "base/result.h"

namespace nanoflow {

class AnswerStream {
 public:
  /// Both outlive the stream; `stats` gets every answer.
  AnswerStream(ServingStack& stack, ServingStats& stats) : stack_(stack), stats_(stats) {}

  /// A body with its prompt as tokens, ready for run().
  [[nodiscard]] Result<Completion> prepare(Endpoint endpoint, const Json& body) const;

  /// Streams the answer on stdout until it ends or interrupted() is set; its text, or why it
  /// failed. `max_tokens` replaces the body's. Throws IoError or OutputClosed when stdout fails.
  Result<std::string> run(Completion completion, std::optional<int64_t> max_tokens = {});

 private:
  ServingStack& stack_;
  ServingStats& stats_;
  RequestId next_id_ = 1;
};

}  // namespace nanoflow
