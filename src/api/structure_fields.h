// The fields by which a request asks for structured output: OpenAI's response_format, vLLM's
// structured_outputs, and the guided_* of its older releases.
#pragma once

#include <optional>
#include <string_view>

#include "api/field_reader.h"
#include "grammar/grammar_source.h"

namespace nanoflow {

/// What the output must be, or nullopt; at most one field may say so. Errors go to `reader`, naming
/// the field. Nothing is compiled here.
std::optional<GrammarSource> read_structure(FieldReader& reader);

/// Whether a body may have one of these fields, or a tool_choice, which may need a grammar, too;
/// told without parsing it: then answering it may take as long as compiling a grammar does. Never
/// false when it has one.
[[nodiscard]] bool may_ask_for_structure(std::string_view body);

}  // namespace nanoflow
