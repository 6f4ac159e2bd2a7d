#include "text/chat_messages.h"

#include <array>

#include <fmt/format.h>

namespace nanoflow {

namespace {

constexpr std::array<std::string_view, 3> kReasoningFields = {"reasoning_content", "thinking",
                                                              "reasoning"};

tl::unexpected<Error> wrong_type(const std::string& param, std::string_view wanted,
                                 const Json& got) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("{} must be {}, got {}", param, wanted, got.type_name()), param);
}

Result<void> check_part(const Json& part, const std::string& param) {
  if (!part.is_object()) return wrong_type(param, "an object", part);
  const Json* type = part.find("type");
  if (type == nullptr || !type->is_string()) {
    return fail(ErrorCode::kInvalidArgument, param + ".type must be a string such as \"text\"",
                param + ".type");
  }
  const std::string& name = type->as_string();
  if (name != "text" && name != "refusal") {
    return fail(ErrorCode::kUnsupported,
                fmt::format("{}.type is '{}'; this model takes text only", param, name),
                param + ".type");
  }
  const Json* text = part.find(name);
  if (text == nullptr || !text->is_string()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{}.{} must be a string", param, name),
                param + "." + name);
  }
  return {};
}

Result<void> check_content(const Json& message, const std::string& role, bool has_tool_calls,
                           const std::string& param) {
  const Json* content = message.find("content");
  const std::string field = param + ".content";
  if (content == nullptr || content->is_null()) {
    if (has_tool_calls || role == "assistant") return {};
    return fail(ErrorCode::kInvalidArgument, field + " is required", field);
  }
  if (content->is_string()) return {};
  if (!content->is_array()) return wrong_type(field, "a string or an array of parts", *content);
  for (size_t i = 0; i < content->as_array().size(); ++i) {
    Result<void> checked = check_part(content->as_array()[i], fmt::format("{}[{}]", field, i));
    if (!checked) return checked;
  }
  return {};
}

Result<void> check_tool_calls(const Json& calls, const std::string& field) {
  if (!calls.is_array()) return wrong_type(field, "an array", calls);
  for (size_t i = 0; i < calls.as_array().size(); ++i) {
    const Json& call = calls.as_array()[i];
    const std::string param = fmt::format("{}[{}]", field, i);
    if (!call.is_object()) return wrong_type(param, "an object", call);
    const Json* function = call.find("function");
    if (function == nullptr || !function->is_object()) {
      return fail(ErrorCode::kInvalidArgument, param + ".function must be an object",
                  param + ".function");
    }
    const Json* name = function->find("name");
    if (name == nullptr || !name->is_string()) {
      return fail(ErrorCode::kInvalidArgument, param + ".function.name must be a string",
                  param + ".function.name");
    }
  }
  return {};
}

Result<void> check_message(const Json& message, const std::string& param) {
  if (!message.is_object()) return wrong_type(param, "an object", message);
  const Json* role = message.find("role");
  if (role == nullptr) {
    return fail(ErrorCode::kInvalidArgument, param + ".role is required", param + ".role");
  }
  if (!role->is_string()) return wrong_type(param + ".role", "a string", *role);
  if (role->as_string().empty()) {
    return fail(ErrorCode::kInvalidArgument, param + ".role is empty", param + ".role");
  }
  const Json* calls = message.find("tool_calls");
  const bool has_calls = calls != nullptr && !calls->is_null();
  if (has_calls) {
    Result<void> checked = check_tool_calls(*calls, param + ".tool_calls");
    if (!checked) return checked;
  }
  for (const std::string_view name : {"name", "tool_call_id"}) {
    const Json* value = message.find(name);
    if (value != nullptr && !value->is_null() && !value->is_string()) {
      return wrong_type(fmt::format("{}.{}", param, name), "a string", *value);
    }
  }
  return check_content(message, role->as_string(), has_calls, param);
}

std::string joined_parts(const Json& parts) {
  std::string text;
  bool first = true;
  for (const Json& part : parts.as_array()) {
    const Json* value = part.find("text");
    if (value == nullptr) value = part.find("refusal");
    if (!first) text += '\n';
    if (value != nullptr) text += value->as_string();
    first = false;
  }
  return text;
}

Result<void> parse_arguments(Json& calls, const std::string& field) {
  for (size_t i = 0; i < calls.as_array().size(); ++i) {
    Json function = *calls.as_array()[i].find("function");
    const Json* arguments = function.find("arguments");
    if (arguments == nullptr || !arguments->is_string()) continue;
    const std::string& text = arguments->as_string();
    Result<Json> parsed = text.empty() ? Result<Json>(Json::object()) : parse_json(text);
    if (!parsed || !parsed->is_object()) {
      const std::string param = fmt::format("{}[{}].function.arguments", field, i);
      return fail(ErrorCode::kInvalidArgument, param + " must be a JSON object", param);
    }
    function.set("arguments", std::move(*parsed));
    calls.as_array()[i].set("function", std::move(function));
  }
  return {};
}

void alias_reasoning(Json& message) {
  for (const std::string_view field : kReasoningFields) {
    const Json* found = message.find(field);
    if (found == nullptr || found->is_null()) continue;
    const Json reasoning = *found;
    if (message.find("thinking") == nullptr) {
      Json::Object& members = message.as_object();
      members.insert(members.begin(), {"thinking", reasoning});
    }
    message.set("reasoning_content", reasoning);
    return;
  }
}

}  // namespace

Result<void> check_chat_messages(const Json& messages) {
  if (!messages.is_array()) return wrong_type("messages", "an array", messages);
  if (messages.as_array().empty()) {
    return fail(ErrorCode::kInvalidArgument, "messages must not be empty", "messages");
  }
  for (size_t i = 0; i < messages.as_array().size(); ++i) {
    Result<void> checked = check_message(messages.as_array()[i], fmt::format("messages[{}]", i));
    if (!checked) return checked;
  }
  return {};
}

Result<Json> prepare_chat_messages(const Json& messages, ContentFormat format) {
  Json prepared = messages;
  for (size_t i = 0; i < prepared.as_array().size(); ++i) {
    Json& message = prepared.as_array()[i];
    const Json* calls = message.find("tool_calls");
    if (calls != nullptr && calls->is_array()) {
      Json parsed = *calls;
      Result<void> done = parse_arguments(parsed, fmt::format("messages[{}].tool_calls", i));
      if (!done) return tl::unexpected(done.error());
      message.set("tool_calls", std::move(parsed));
    }
    const Json* content = message.find("content");
    if (content != nullptr && content->is_array() && format == ContentFormat::kString) {
      message.set("content", joined_parts(*content));
    } else if (content == nullptr || content->is_null()) {
      // Clients send back null beside tool calls; many templates add text to whatever is there.
      message.set("content", "");
    }
    alias_reasoning(message);
  }
  return prepared;
}

}  // namespace nanoflow
