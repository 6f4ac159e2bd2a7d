#include "api/tool_fields.h"

#include <utility>

#include <fmt/format.h>

namespace nanoflow {
namespace {

const Json* function_of(const Json& tool) {
  return tool.is_object() ? tool.find("function") : nullptr;
}

/// The function's name, or "" when the tool is malformed.
std::string name_of(const Json& tool) {
  const Json* function = function_of(tool);
  const Json* name =
      function != nullptr && function->is_object() ? function->find("name") : nullptr;
  return name != nullptr && name->is_string() ? name->as_string() : "";
}

void read_tools(FieldReader& reader, ToolFields& fields) {
  const Json* tools = reader.find("tools");
  if (tools == nullptr) return;
  if (!tools->is_array()) return reader.fail("tools", "must be a list");
  for (size_t i = 0; i < tools->as_array().size(); ++i) {
    const Json& tool = tools->as_array()[i];
    const std::string param = fmt::format("tools[{}]", i);
    const auto refuse = [&](const std::string& name, const char* message) {
      reader.adopt({ErrorCode::kInvalidArgument, fmt::format("{}: {}", name, message), name});
    };
    const Json* type = tool.is_object() ? tool.find("type") : nullptr;
    if (type == nullptr || !type->is_string() || type->as_string() != "function")
      return refuse(param + ".type", "must be \"function\"");
    if (name_of(tool).empty())
      return refuse(param + ".function.name", "must be a string that is not empty");
    const Json* parameters = function_of(tool)->find("parameters");
    if (parameters != nullptr && !parameters->is_null() && !parameters->is_object())
      return refuse(param + ".function.parameters", "must be an object");
    const Json* description = function_of(tool)->find("description");
    if (description != nullptr && !description->is_null() && !description->is_string())
      return refuse(param + ".function.description", "must be a string");
  }
  fields.tools = *tools;
}

void read_choice(FieldReader& reader, bool chat, ToolFields& fields) {
  const Json* choice = reader.find("tool_choice");
  if (choice == nullptr) return;
  const std::string word = choice->is_string() ? choice->as_string() : "";
  if (word == "none") fields.choice = ToolChoice::kNone;
  if (word == "none" || word == "auto") return;
  if (!chat)
    return reader.fail("tool_choice", "is supported in chat alone", ErrorCode::kUnsupported);
  const std::string name = name_of(*choice);
  if (word != "required" && name.empty())
    return reader.fail("tool_choice",
                       "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\", "
                       "\"function\": {\"name\": ...}}");
  if (!fields.tools.is_array() || fields.tools.as_array().empty())
    return reader.fail("tool_choice", "needs tools");
  fields.choice = word == "required" ? ToolChoice::kRequired : ToolChoice::kNamed;
  fields.name = name;
  if (fields.choice == ToolChoice::kRequired) return;
  for (const Json& tool : fields.tools.as_array())
    if (name_of(tool) == name) return;
  reader.fail("tool_choice", fmt::format("names \"{}\", which tools do not have", name));
}

/// The schema of a function's arguments, which are an object whatever its writer left out.
Json arguments_schema(const Json& tool) {
  const Json* given = function_of(tool)->find("parameters");
  Json schema = given != nullptr && given->is_object() ? *given : Json::object();
  if (schema.find("type") == nullptr) schema.set("type", "object");
  return schema;
}

/// Moves definitions to `root`, where references look for them.
Result<void> hoist_definitions(Json& schema, Json& root) {
  for (const char* key : {"$defs", "definitions"}) {
    const Json* found = schema.find(key);
    if (found == nullptr || !found->is_object()) continue;
    Json all = root.find(key) != nullptr ? *root.find(key) : Json::object();
    for (const auto& [name, value] : found->as_object()) {
      const Json* other = all.find(name);
      if (other != nullptr && other->dump() != value.dump())
        return fail(ErrorCode::kUnsupported,
                    fmt::format("{}.{} differs between tools, which tool_choice \"required\" does "
                                "not support",
                                key, name),
                    "tools");
      all.set(name, value);
    }
    root.set(key, std::move(all));
    schema.set(key, Json::object());
  }
  return {};
}

}  // namespace

ToolFields read_tool_fields(FieldReader& reader, bool chat) {
  ToolFields fields;
  if (chat) read_tools(reader, fields);
  if (fields.tools.is_array() && !fields.tools.as_array().empty())
    fields.choice = ToolChoice::kAuto;
  read_choice(reader, chat, fields);
  reader.read("parallel_tool_calls", fields.parallel);
  return fields;
}

Result<std::optional<GrammarSource>> tool_structure(const ToolFields& fields) {
  const auto source = [](const Json& schema) {
    return GrammarSource{GrammarKind::kJsonSchema, schema.dump(), "tools"};
  };
  if (fields.choice == ToolChoice::kNamed) {
    for (const Json& tool : fields.tools.as_array())
      if (name_of(tool) == fields.name) return source(arguments_schema(tool));
  }
  if (fields.choice != ToolChoice::kRequired) return std::nullopt;
  Json root = Json::object({{"type", "array"}, {"minItems", 1}});
  if (!fields.parallel) root.set("maxItems", 1);
  Json::Array calls;
  for (const Json& tool : fields.tools.as_array()) {
    Json arguments = arguments_schema(tool);
    if (auto hoisted = hoist_definitions(arguments, root); !hoisted)
      return tl::unexpected(hoisted.error());
    calls.push_back(Json::object(
        {{"type", "object"},
         {"properties", Json::object({{"name", Json::object({{"const", name_of(tool)}})},
                                      {"parameters", std::move(arguments)}})},
         {"required", Json::array({"name", "parameters"})},
         {"additionalProperties", false}}));
  }
  root.set("items", Json::object({{"anyOf", std::move(calls)}}));
  return source(root);
}

}  // namespace nanoflow
