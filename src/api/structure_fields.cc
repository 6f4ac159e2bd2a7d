#include "api/structure_fields.h"

#include <array>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace nanoflow {
namespace {

/// Collects what fields ask for; more than one is an error.
class Structure {
 public:
  explicit Structure(FieldReader& reader) : reader_(reader) {}

  void set(GrammarKind kind, std::string text, const std::string& param) {
    if (source_.has_value())
      return fail(param, fmt::format("cannot be combined with {}", source_->param));
    source_ = GrammarSource{kind, std::move(text), param};
  }
  void fail(const std::string& param, std::string message,
            ErrorCode code = ErrorCode::kInvalidArgument) {
    reader_.adopt({code, param + ": " + std::move(message), param});
  }

  /// A schema as an object, or as the text of one.
  void set_schema(const Json& value, const std::string& param) {
    if (value.is_object() || value.is_bool())
      return set(GrammarKind::kJsonSchema, value.dump(), param);
    set_text(GrammarKind::kJsonSchema, value, param);
  }
  void set_text(GrammarKind kind, const Json& value, const std::string& param) {
    if (!value.is_string())
      return fail(param, fmt::format("must be a string, not {}", value.type_name()));
    set(kind, value.as_string(), param);
  }
  void set_tag(const Json& value, const std::string& param) {
    if (value.is_object()) return set(GrammarKind::kStructuralTag, value.dump(), param);
    set_text(GrammarKind::kStructuralTag, value, param);
  }
  void set_choice(const Json& value, const std::string& param) {
    if (!value.is_array() || value.as_array().empty())
      return fail(param, "must be a non-empty list of strings");
    std::vector<std::string> choices;
    for (const Json& item : value.as_array()) {
      if (!item.is_string() || item.as_string().empty())
        return fail(param, "must be a list of strings that are not empty");
      choices.push_back(item.as_string());
    }
    set(GrammarKind::kChoice, choice_grammar(choices), param);
  }

  [[nodiscard]] std::optional<GrammarSource> take() { return std::move(source_); }

 private:
  FieldReader& reader_;
  std::optional<GrammarSource> source_;
};

void read_response_format(const Json& format, Structure& out) {
  const std::string param = "response_format";
  if (!format.is_object()) return out.fail(param, "must be an object");
  const Json* type = format.find("type");
  if (type == nullptr || !type->is_string()) return out.fail(param + ".type", "must be a string");
  const std::string& name = type->as_string();
  if (name == "text") return;
  if (name == "json_object") return out.set(GrammarKind::kJsonObject, "", param);
  if (name == "structural_tag") return out.set_tag(format, param);
  if (name != "json_schema")
    return out.fail(param + ".type",
                    "must be \"text\", \"json_object\", \"json_schema\" or \"structural_tag\"");
  const Json* schema = format.find("json_schema");
  if (schema == nullptr || !schema->is_object())
    return out.fail("response_format.json_schema", "must be an object");
  // The schema is kept to whether strict or not, as vLLM does: there is no looser way to serve it.
  const Json* strict = schema->find("strict");
  if (strict != nullptr && !strict->is_null() && !strict->is_bool())
    return out.fail("response_format.json_schema.strict", "must be true or false");
  const Json* inner = schema->find("schema");
  if (inner == nullptr || !inner->is_object())
    return out.fail("response_format.json_schema.schema", "must be an object");
  out.set_schema(*inner, "response_format.json_schema.schema");
}

void read_structured_outputs(const Json& fields, Structure& out) {
  const std::string param = "structured_outputs";
  if (!fields.is_object()) return out.fail(param, "must be an object");
  for (const auto& [key, value] : fields.as_object()) {
    const std::string name = fmt::format("{}.{}", param, key);
    if (value.is_null()) continue;
    if (key == "json") {
      out.set_schema(value, name);
    } else if (key == "regex") {
      out.set_text(GrammarKind::kRegex, value, name);
    } else if (key == "choice") {
      out.set_choice(value, name);
    } else if (key == "grammar") {
      out.set_text(GrammarKind::kEbnf, value, name);
    } else if (key == "structural_tag") {
      out.set_tag(value, name);
    } else if (key != "json_object") {
      out.fail(name, "is not supported", ErrorCode::kUnsupported);
    } else if (!value.is_bool()) {
      out.fail(name, "must be true or false");
    } else if (value.as_bool()) {
      out.set(GrammarKind::kJsonObject, "", name);
    }
  }
}

}  // namespace

std::optional<GrammarSource> read_structure(FieldReader& reader) {
  Structure structure(reader);
  if (const Json* format = reader.find("response_format")) read_response_format(*format, structure);
  if (const Json* fields = reader.find("structured_outputs"))
    read_structured_outputs(*fields, structure);
  if (const Json* json = reader.find("guided_json")) structure.set_schema(*json, "guided_json");
  if (const Json* regex = reader.find("guided_regex"))
    structure.set_text(GrammarKind::kRegex, *regex, "guided_regex");
  if (const Json* choice = reader.find("guided_choice"))
    structure.set_choice(*choice, "guided_choice");
  if (const Json* grammar = reader.find("guided_grammar"))
    structure.set_text(GrammarKind::kEbnf, *grammar, "guided_grammar");
  return structure.take();
}

bool may_ask_for_structure(std::string_view body) {
  // A field's name may be written with \\u escapes, of ASCII: \\u00.
  constexpr std::array<std::string_view, 5> kSigns = {"response_format", "structured_outputs",
                                                      "tool_choice", "guided_", "\\u00"};
  for (const std::string_view sign : kSigns)
    if (body.find(sign) != std::string_view::npos) return true;
  return false;
}

}  // namespace nanoflow
