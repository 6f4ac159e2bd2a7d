// How token ids and log-probabilities are written in responses: OpenAI's two forms and vLLM's
// prompt_logprobs. Internal to api/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "api/completion.h"
#include "api/text_model.h"
#include "base/json.h"

namespace nanoflow {

/// A token's spelling in logprobs: its text; "bytes:\xe2\x80" where that is no whole character, as
/// OpenAI writes it; "token_id:12" when asked for or when there is no tokenizer.
class TokenSpelling {
 public:
  TokenSpelling(const TextModel& model, bool as_ids) : model_(&model), as_ids_(as_ids) {}

  [[nodiscard]] std::string bytes(int32_t id) const;
  [[nodiscard]] std::string operator()(int32_t id) const;

 private:
  const TextModel* model_;
  bool as_ids_;
};

/// The choice's tokens [begin, end).
struct TokenRange {
  size_t begin = 0;
  size_t end = 0;
};

/// [ids...].
Json ids_json(const std::vector<int32_t>& ids);

/// OpenAI's completions form: parallel lists over the range's tokens. `prompt`: of an echoed one,
/// whose characters come before the choice's text. With `list_prompt` its tokens come first, too;
/// the first of them has no logprob.
Json completion_logprobs(const EncodedPrompt* prompt, bool list_prompt, const Choice& choice,
                         TokenRange range, const TokenSpelling& spell);

/// OpenAI's chat form: a list of objects.
Json chat_logprobs(const Choice& choice, TokenRange range, const TokenSpelling& spell);

/// vLLM's prompt_logprobs: null for the first token, then {id: {logprob, rank, decoded_token}}.
Json prompt_logprobs(const Choice& choice, const TokenSpelling& spell);

}  // namespace nanoflow
