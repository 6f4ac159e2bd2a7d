// Chat templates: the Jinja program of a checkpoint that turns a conversation into prompt text.
// Here: compiling, rendering, checking messages, finding the template of a checkpoint. The language
// itself lives in jinja_*.h; tokenization of the rendered text does not live here.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/text_span.h"

namespace nanoflow {

/// One checkpoint's template text. Checkpoints may carry several by name; "default" is the usual
/// one, "tool_use" replaces it when a request has tools.
struct ChatTemplateSource {
  std::string name = "default";
  std::string text;
  std::string origin;  ///< file (and field) it came from, for error messages
};

/// Token texts by the name under which templates use them: "bos_token" -> "<s>", "eos_token", ...
using SpecialTokens = std::map<std::string, std::string, std::less<>>;

/// How a template expects a message's content (the choice vLLM makes by looking at the template).
enum class ContentFormat : uint8_t {
  kString,  ///< plain text; a list of parts is flattened before rendering
  kParts,   ///< the template walks a list of {"type": "text", ...} parts itself
};

/// What a request adds to its messages.
struct ChatRenderOptions {
  /// End with the header of an assistant turn, so that the model answers.
  bool add_generation_prompt = true;
  /// Leave the last message open (no end-of-turn), so that the model continues it. Excludes
  /// add_generation_prompt.
  bool continue_final_message = false;
  Json tools;      ///< array of tool objects as in the request; null: none
  Json documents;  ///< array of objects for retrieval templates; null: none
  Json kwargs;     ///< object of extra template variables (chat_template_kwargs); null: none
  /// Special-token text inside the request's strings becomes control tokens, as in transformers.
  /// Only for callers that wrote every message themselves.
  bool parse_special_in_messages = false;
};

/// A conversation as prompt text.
struct RenderedChat {
  std::string text;
  /// Bytes of `text` that the request wrote, in order: message contents, names, tool calls and
  /// results, tools, documents, kwargs, in whatever way the template passed them on. Not roles and
  /// kwargs that are one plain word, which templates build their markers from ('<|' + role + '|>').
  /// Empty with parse_special_in_messages. For EncodeOptions::literal.
  std::vector<TextSpan> literal;
};

/// A compiled template. Immutable and thread-safe; rendering allocates its own state.
class ChatTemplate {
 public:
  /// Seconds since the epoch, for templates that print today's date (strftime_now, local time).
  using WallClock = std::function<int64_t()>;

  /// Compiles all named templates of one checkpoint (at least one). Throws FormatError naming
  /// origin, line and construct when a template is malformed or uses something not supported (see
  /// jinja_parser.h for what is).
  static ChatTemplate compile(std::vector<ChatTemplateSource> sources,
                              const SpecialTokens& special_tokens,
                              WallClock clock = system_wall_clock);

  /// Renders `messages` (array of objects with "role" and "content") into the prompt text.
  /// The text must equal transformers' apply_chat_template(tokenize=False) byte for byte; where it
  /// came from is invisible to the template, so marking it changes no test and no filter.
  /// Errors: kInvalidArgument with a param like "messages[2].content" for malformed messages, with
  /// the template's own words when it calls raise_exception, and with the template's line when
  /// rendering fails; kResourceExhausted when the template exceeds its step, memory or output
  /// limit. Bounded in time and memory for any template and input. Thread-safe.
  [[nodiscard]] Result<RenderedChat> render(const Json& messages,
                                            const ChatRenderOptions& options) const;

  /// How the default template takes content.
  [[nodiscard]] ContentFormat content_format() const;
  /// Where the default template came from.
  [[nodiscard]] const std::string& origin() const;
  /// The source text of the default template.
  [[nodiscard]] const std::string& text() const;

  /// Reads the system's clock.
  static int64_t system_wall_clock();

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

/// The templates of `checkpoint`, or empty when it has none. A directory: chat_template.jinja (with
/// additional_chat_templates/*.jinja), else the chat_template field of chat_template.json, else of
/// tokenizer_config.json (a string or a list of {name, template}). A .gguf file:
/// tokenizer.chat_template. Throws IoError or FormatError when a file that is there cannot be read.
std::vector<ChatTemplateSource> find_chat_template(const std::string& checkpoint);

/// The template for `--chat-template`: a built-in name ("chatml", "llama-2") or a path to a file
/// holding Jinja text. Throws ConfigError when it is neither.
std::vector<ChatTemplateSource> load_chat_template(const std::string& name_or_path);

/// Special token texts of `checkpoint`. A directory: every *_token field of tokenizer_config.json
/// and special_tokens_map.json that is a string or an object with "content" (missing files give an
/// empty map). A .gguf file: its bos, eos, unk, ... ids, looked up in its vocabulary. Throws
/// FormatError.
SpecialTokens find_special_tokens(const std::string& checkpoint);

/// Checks that `messages` is what a chat request may carry: a non-empty array of objects with a
/// string "role", and "content" that is a string, null (only beside tool_calls, or for the
/// assistant), or an array of parts with a known "type". The error's param names the field, for
/// example "messages[2].content[0].type".
Result<void> check_chat_messages(const Json& messages);

}  // namespace nanoflow
