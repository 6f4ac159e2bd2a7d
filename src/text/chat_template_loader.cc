// Where checkpoints keep their chat template and special tokens, and the built-in templates.
#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"
#include "formats/gguf.h"
#include "text/chat_template.h"

namespace nanoflow {

namespace {

namespace fs = std::filesystem;

// The format of OpenAI's ChatML document, which many models share.
constexpr std::string_view kChatml =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// Llama 2's published chat format: turns in [INST] ... [/INST], the system message inside the
// first.
constexpr std::string_view kLlama2 =
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}"
    "{% set loop_messages = messages %}{% set system_message = none %}"
    "{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% set content = message['content'] %}"
    "{% if loop.index0 == 0 and system_message is not none %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + content %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}"
    "{% endfor %}";

std::optional<Json> read_json_if_there(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return std::nullopt;
  Result<Json> json = parse_json(read_file(path));
  if (!json) throw FormatError(path.string(), json.error().message);
  if (!json->is_object()) throw FormatError(path.string(), "expected a JSON object");
  return std::move(*json);
}

// The value of a chat_template field: one text, or a list of {name, template}.
std::vector<ChatTemplateSource> read_field(const Json& field, const std::string& path) {
  const std::string origin = path + ": chat_template";
  if (field.is_string()) return {{"default", field.as_string(), origin}};
  std::vector<ChatTemplateSource> sources;
  if (field.is_array()) {
    for (const Json& entry : field.as_array()) {
      const Json* name = entry.find("name");
      const Json* text = entry.find("template");
      if (name == nullptr || text == nullptr || !name->is_string() || !text->is_string()) {
        throw FormatError(path, "chat_template: each entry needs a string 'name' and 'template'");
      }
      sources.push_back({name->as_string(), text->as_string(),
                         fmt::format("{} '{}'", origin, name->as_string())});
    }
    return sources;
  }
  if (field.is_object()) {
    for (const auto& [name, text] : field.as_object()) {
      if (!text.is_string()) throw FormatError(path, "chat_template: '" + name + "' is no string");
      sources.push_back({name, text.as_string(), fmt::format("{} '{}'", origin, name)});
    }
    return sources;
  }
  throw FormatError(path, "chat_template must be a string or a list of named templates");
}

std::vector<ChatTemplateSource> read_jinja_files(const fs::path& dir) {
  std::vector<ChatTemplateSource> sources;
  const fs::path main = dir / "chat_template.jinja";
  std::error_code ignored;
  if (fs::is_regular_file(main, ignored)) {
    sources.push_back({"default", read_file(main), main.string()});
  }
  const fs::path more = dir / "additional_chat_templates";
  if (!fs::is_directory(more, ignored)) return sources;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(more)) {
    if (entry.path().extension() == ".jinja") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    sources.push_back({file.stem().string(), read_file(file), file.string()});
  }
  return sources;
}

std::vector<ChatTemplateSource> read_gguf(const std::string& path) {
  const GgufFile file(path);
  std::vector<ChatTemplateSource> sources;
  const std::string key = "tokenizer.chat_template";
  if (const auto text = file.find_string(key)) {
    sources.push_back({"default", std::string(*text), path + ": " + key});
  }
  if (const auto text = file.find_string(key + ".tool_use")) {
    sources.push_back({"tool_use", std::string(*text), path + ": " + key + ".tool_use"});
  }
  return sources;
}

bool is_gguf(const fs::path& path) {
  std::error_code ignored;
  return path.extension() == ".gguf" && fs::is_regular_file(path, ignored);
}

void add_tokens(const Json& json, SpecialTokens& tokens) {
  for (const auto& [name, value] : json.as_object()) {
    if (!name.ends_with("_token")) continue;
    const Json* text = value.is_object() ? value.find("content") : &value;
    if (text != nullptr && text->is_string()) tokens.try_emplace(name, text->as_string());
  }
}

SpecialTokens gguf_tokens(const std::string& path) {
  const GgufFile file(path);
  SpecialTokens tokens;
  const auto* texts = file.find_strings("tokenizer.ggml.tokens");
  for (const std::string name : {"bos", "eos", "unk", "pad", "sep", "cls", "mask"}) {
    // GGUF spells two of the names in full.
    const std::string spelled = name == "unk" ? "unknown" : name == "sep" ? "seperator" : name;
    const auto id = file.find_int("tokenizer.ggml." + spelled + "_token_id");
    if (!id || texts == nullptr) continue;
    if (*id < 0 || static_cast<uint64_t>(*id) >= texts->size()) {
      throw FormatError(path, fmt::format("tokenizer.ggml.{}_token_id is {}, outside of the "
                                          "vocabulary of {} tokens",
                                          spelled, *id, texts->size()));
    }
    tokens.emplace(name + "_token", std::string((*texts)[static_cast<size_t>(*id)]));
  }
  return tokens;
}

}  // namespace

std::vector<ChatTemplateSource> find_chat_template(const std::string& checkpoint) {
  const fs::path dir(checkpoint);
  if (is_gguf(dir)) return read_gguf(checkpoint);
  std::vector<ChatTemplateSource> sources = read_jinja_files(dir);
  if (!sources.empty()) return sources;
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const fs::path path = dir / name;
    const std::optional<Json> json = read_json_if_there(path);
    const Json* field = json ? json->find("chat_template") : nullptr;
    if (field != nullptr && !field->is_null()) return read_field(*field, path.string());
  }
  return {};
}

std::vector<ChatTemplateSource> load_chat_template(const std::string& name_or_path) {
  if (name_or_path == "chatml") {
    return {{"default", std::string(kChatml), "built-in template chatml"}};
  }
  if (name_or_path == "llama-2") {
    return {{"default", std::string(kLlama2), "built-in template llama-2"}};
  }
  std::error_code ignored;
  if (!fs::is_regular_file(name_or_path, ignored)) {
    throw ConfigError(
        "--chat-template",
        fmt::format("'{}' is neither a file nor one of: chatml, llama-2", name_or_path));
  }
  return {{"default", read_file(name_or_path), name_or_path}};
}

SpecialTokens find_special_tokens(const std::string& checkpoint) {
  const fs::path dir(checkpoint);
  if (is_gguf(dir)) return gguf_tokens(checkpoint);
  SpecialTokens tokens;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (const std::optional<Json> json = read_json_if_there(dir / name)) add_tokens(*json, tokens);
  }
  return tokens;
}

}  // namespace nanoflow
