// Any template over any JSON: no crash, no hang, no unbounded memory. Input: the template's text, a
// zero byte, then a JSON object of variables (without the zero byte, a fixed chat is used).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"
#include "text/jinja_string.h"

namespace {

constexpr const char* kChat = R"({"messages": [{"role": "system", "content": " s\n"},
  {"role": "user", "content": [{"type": "text", "text": "Grüße 世界"}]},
  {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f",
  "arguments": {"a": [1, 2.5, true]}}}]}], "tools": [{"type": "function"}], "x": -3, "y": 1.5,
  "add_generation_prompt": true, "bos_token": "<s>"})";

// Messages of any shape through a template that is known to be good: an answer or an error.
void render_messages(const nanoflow::Json& request) {
  static const auto chat =
      nanoflow::ChatTemplate::compile(nanoflow::load_chat_template("llama-2"), {});
  const nanoflow::Json* messages = request.find("messages");
  if (messages == nullptr) return;
  nanoflow::ChatRenderOptions options;
  options.continue_final_message = request.find("continue_final_message") != nullptr;
  options.add_generation_prompt = !options.continue_final_message;
  if (const nanoflow::Json* tools = request.find("tools")) options.tools = *tools;
  static_cast<void>(chat.render(*messages, options));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanoflow;  // NOLINT(*-using-namespace*)
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view source = input.substr(0, zero);
  const Result<Json> variables =
      parse_json(zero == std::string_view::npos ? std::string_view(kChat) : input.substr(zero + 1));
  if (!jinja::is_valid_utf8(source) || !variables || !variables->is_object()) return 0;
  render_messages(*variables);
  jinja::Context context;
  context.clock = [] { return int64_t{1'700'000'000}; };
  context.limits.steps = 200'000;  // keeps one input under a second with sanitizers
  context.limits.heap_bytes = 16u << 20;
  context.limits.output_bytes = 4u << 20;
  for (const auto& [name, value] : variables->as_object()) {
    context.variables.emplace_back(name, &value);
    if (value.is_string()) context.literal_texts.push_back(value.as_string());
  }
  try {
    const jinja::Rendered out = jinja::render(*jinja::parse(source), context);
    if (!jinja::is_valid_utf8(out.text)) __builtin_trap();
    size_t end = 0;
    for (const TextSpan& span : out.literal) {
      if (span.begin < end || span.begin >= span.end || span.end > out.text.size())
        __builtin_trap();
      end = span.end;
    }
  } catch (const jinja::TemplateError&) {
  }
  return 0;
}
