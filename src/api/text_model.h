// TextModel: what the API layer knows of the model that is served: its name, text and limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/openai_request.h"
#include "engine/engine.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nanoflow {

/// Immutable after start, shared by all requests.
struct TextModel {
  std::string name;                           ///< "model" in responses
  std::optional<Tokenizer> tokenizer;         ///< none: token-id prompts only
  std::optional<ChatTemplate> chat_template;  ///< none: chat requests are refused
  SamplingDefaults defaults;
  EngineLimits limits;
};

}  // namespace nanoflow
