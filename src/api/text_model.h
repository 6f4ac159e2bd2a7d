// TextModel: what the API layer knows of the model that is served: its name, text and limits.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "api/openai_request.h"
#include "api/tool_calls.h"
#include "engine/engine.h"
#include "grammar/grammar_compiler.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nanoflow {

/// Immutable after start (`grammars` is thread-safe), shared by all requests.
struct TextModel {
  std::string name;                           ///< "model" in responses
  std::optional<Tokenizer> tokenizer;         ///< none: token-id prompts only
  std::optional<ChatTemplate> chat_template;  ///< none: chat requests are refused
  std::unique_ptr<GrammarCompiler> grammars;  ///< null: structured output is refused
  std::optional<ToolFormat> tool_format;      ///< none: calls that are left to the model are text
  SamplingDefaults defaults;
  EngineLimits limits;
};

}  // namespace nanoflow
