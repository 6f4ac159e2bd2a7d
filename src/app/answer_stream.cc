#include "app/answer_stream.h"

#include <unistd.h>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "api/printable.h"
#include "app/signals.h"
#include "app/standard_output.h"

namespace nanoflow {

Result<Completion> AnswerStream::prepare(Endpoint endpoint, const Json& body) const {
  Result<OpenAiRequest> request = parse_openai_request(endpoint, body, stack_.text().defaults);
  if (!request.has_value()) return tl::unexpected(request.error());
  return Completion::create(stack_.text(), std::move(*request), "generate", next_id_);
}

Result<std::string> AnswerStream::run(Completion completion, std::optional<int64_t> max_tokens) {
  using namespace std::chrono_literals;
  const auto events = std::make_shared<EventQueue>();  // the engine keeps it until the request ends
  Request request = std::move(completion.take_engine_requests().front());
  if (max_tokens.has_value()) request.sampling.max_tokens = max_tokens;
  const RequestId id = next_id_++;
  // A model can write anything, escape sequences included; only a file gets it as it is.
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  const Result<RequestHandle> handle = stack_.engine().submit(std::move(request), events);
  if (!handle.has_value()) return tl::unexpected(handle.error());
  while (!completion.done()) {
    if (interrupted()) stack_.engine().cancel(id);
    for (const TokenEvent& event : events->pop_all(100ms)) {
      const ChoiceDelta delta = completion.on_event(event);
      write_stdout(terminal ? terminal_text(delta.text) : delta.text);
      if (delta.cancel) stack_.engine().cancel(id);
    }
  }
  if (const std::optional<Error> error = completion.error()) return tl::unexpected(*error);
  const Choice& choice = completion.choices().front();
  stats_.add(choice.times, completion.prompt_tokens(), completion.output_tokens());
  return choice.text;
}

}  // namespace nanoflow
