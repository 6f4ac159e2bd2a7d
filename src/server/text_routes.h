// The routes about text and names that need no engine: /tokenize, /detokenize, /tokenizer_info,
// /v1/models.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "api/text_model.h"
#include "base/json.h"
#include "server/http.h"

namespace nanoflow {

/// POST /tokenize: {"prompt": text} or {"messages": [...]} with the chat template's options ->
/// {"count", "max_model_len", "tokens", "token_strs"}.
HttpResponse tokenize_answer(const TextModel& model, std::string_view body);

/// POST /detokenize: {"tokens": [ids]} -> {"prompt": text}.
HttpResponse detokenize_answer(const TextModel& model, std::string_view body);

/// GET /tokenizer_info: what a client needs to prepare token ids and chats as this model wants
/// them: the texts of its special tokens (null: none), whether encoding adds them, its chat
/// template. The names are those of Hugging Face's tokenizer_config.json, as in vLLM's route.
HttpResponse tokenizer_info_answer(const TextModel& model);

/// One entry of /v1/models. `root`: the model behind the name; `created_s`: Unix time.
Json model_card(const std::string& name, const std::string& root, int64_t created_s,
                int64_t max_model_len);

}  // namespace nanoflow
