// Completion: one OpenAI request being served. It turns the body into engine requests, follows
// their events (detokenising, stop strings, logprobs) and builds the response. No threads, no
// queues: the caller moves requests to the engine and events back, so a command line, a batch
// runner and a server share it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/openai_request.h"
#include "api/text_model.h"
#include "api/tool_calls.h"
#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"

namespace nanoflow {

/// A prompt as the model sees it.
struct EncodedPrompt {
  std::vector<int32_t> ids;
  std::string text;  ///< for echo; "" without a tokenizer
};

/// News of one choice after an event: what a stream would send.
struct ChoiceDelta {
  int64_t choice = 0;                     ///< index in the response
  std::string text;                       ///< certain new text; may be empty
  std::vector<ToolCallPiece> tool_calls;  ///< what is new of its calls
  size_t tokens_begin = 0;                ///< the choice's tokens [begin, end) are new
  size_t tokens_end = 0;
  bool finished = false;
  bool cancel = false;  ///< a stop string ended it: cancel the engine request
};

/// One output sequence. Choice p * n + i is the i-th of prompt p.
struct Choice {
  size_t prompt = 0;
  RequestId request_id = 0;
  std::string text;
  std::vector<ToolCall> tool_calls;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;         ///< one per token when asked for
  std::vector<TokenLogprob> prompt_logprobs;  ///< of the prompt's second token on
  std::vector<size_t> text_offsets;  ///< where each token's text begins in `text`: code points
  size_t text_characters = 0;        ///< code points in `text`
  std::string finish_reason;         ///< "" while running
  Json stop_reason;                  ///< null, token id, or stop string
  Error error;                       ///< with finish_reason "error"
  RequestTimes times;                ///< of the last event
  int64_t num_preemptions = 0;
};

class Completion {
 public:
  /// Tokenises the prompts (after rendering the template for chat) and checks what needs the model.
  /// `first_id` names the engine requests: choice c is first_id + c. Errors: kInvalidArgument
  /// naming the field, kContextTooLong, kUnsupported (no tokenizer, no template).
  [[nodiscard]] static Result<Completion> create(const TextModel& model, OpenAiRequest request,
                                                 std::string response_id, RequestId first_id);

  /// What to submit, one per choice; call once.
  [[nodiscard]] std::vector<Request> take_engine_requests();

  /// Takes an event of one of this completion's requests. Events after a choice has finished are
  /// dropped.
  ChoiceDelta on_event(const TokenEvent& event);

  [[nodiscard]] bool done() const { return running_ == 0; }
  /// The first engine error among the choices, if any.
  [[nodiscard]] std::optional<Error> error() const;

  [[nodiscard]] const std::vector<Choice>& choices() const { return choices_; }
  [[nodiscard]] const TextModel& model() const { return *model_; }
  [[nodiscard]] const std::string& response_id() const { return response_id_; }
  [[nodiscard]] const OpenAiRequest& request() const { return request_; }
  [[nodiscard]] const std::vector<EncodedPrompt>& prompts() const { return prompts_; }
  /// What a client answers call `index` of `choice` by: "call_" and 16 letters and digits, or 9 of
  /// them for Mistral, whose template takes no other.
  [[nodiscard]] std::string tool_call_id(int64_t choice, int64_t index) const;
  [[nodiscard]] int64_t prompt_tokens() const;
  [[nodiscard]] int64_t output_tokens() const;

  /// The response body, OpenAI's "text_completion" or "chat.completion" with vLLM's extra fields.
  ///   created_s: Unix time in seconds. Requires done().
  [[nodiscard]] Json response(int64_t created_s) const;

 private:
  Completion() = default;
  void append_token(Choice& choice, size_t index, int32_t token, bool hidden, ChoiceDelta& delta);
  void read_tool_calls(Choice& choice, size_t index, ChoiceDelta& delta);

  const TextModel* model_ = nullptr;
  OpenAiRequest request_;
  std::string response_id_;
  std::vector<EncodedPrompt> prompts_;
  std::vector<Request> engine_requests_;
  std::vector<Choice> choices_;
  std::vector<Detokenizer> detokenizers_;  // one per choice, when there is a tokenizer
  std::vector<StopStrings> stops_;         // one per choice
  std::vector<ToolCallParser> tools_;      // one per choice, when calls are looked for
  size_t running_ = 0;
};

/// {"error": {"message", "type", "param", "code"}} as vLLM writes it; `status` gets the HTTP
/// status.
Json error_body(const Error& error, int* status = nullptr);

}  // namespace nanoflow
