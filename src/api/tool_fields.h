// The fields by which a request offers functions to the model and says whether it must call one:
// tools, tool_choice, parallel_tool_calls.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "api/field_reader.h"
#include "base/json.h"
#include "grammar/grammar_source.h"

namespace nanoflow {

enum class ToolChoice : uint8_t {
  kNone,      ///< the output is text, whatever it looks like
  kAuto,      ///< the model decides, in the format it was trained on
  kRequired,  ///< at least one call
  kNamed,     ///< one call of ToolFields::name
};

struct ToolFields {
  Json tools;  ///< array of what is offered, or null
  ToolChoice choice = ToolChoice::kNone;
  std::string name;      ///< with kNamed
  bool parallel = true;  ///< false: at most one call
};

/// Errors go to `reader`, naming the field. `chat`: whether the endpoint has tools at all.
ToolFields read_tool_fields(FieldReader& reader, bool chat);

/// What the output must be so that it is what kRequired or kNamed ask for, as
/// ToolFormat::kCallList or kArguments read it; nullopt with the others. An error names its field:
/// definitions of one name that differ between tools.
Result<std::optional<GrammarSource>> tool_structure(const ToolFields& fields);

}  // namespace nanoflow
