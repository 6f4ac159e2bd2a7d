// Messages of a chat request: checking them, and bringing them into the form templates expect.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "text/chat_template.h"

namespace nanoflow {

/// A copy of checked `messages` as templates expect them:
///   - content parts are joined with newlines when `format` is kString;
///   - null content without tool_calls becomes "";
///   - tool call arguments given as JSON text become objects (what templates and transformers
///   take);
///   - reasoning is passed under each of its names (reasoning_content, thinking, reasoning).
/// Error kInvalidArgument naming the field for arguments that are no JSON object.
Result<Json> prepare_chat_messages(const Json& messages, ContentFormat format);

}  // namespace nanoflow
