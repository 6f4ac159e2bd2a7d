#include "text/chat_template.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "text/chat_messages.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"
#include "text/jinja_string.h"

namespace nanoflow {

namespace {

using jinja::Expr;
using jinja::Program;
using jinja::Stmt;
using jinja::TemplateError;

struct Compiled {
  ChatTemplateSource source;
  std::unique_ptr<const Program> program;
  ContentFormat format = ContentFormat::kString;
};

bool is_content_access(const Expr& e) {
  if (e.type == Expr::kAttr) return e.name == "content";
  return e.type == Expr::kItem && e.args[1]->type == Expr::kConst &&
         e.args[1]->constant.is_string() && e.args[1]->constant.text() == "content";
}

// Does the template take message content apart itself, by a loop over it or by map/select filters?
// Content that was first assigned to a variable counts, too.
ContentFormat detect_format(const Program& program) {
  std::vector<jinja::Symbol> aliases;
  for (const Stmt& s : program.stmts) {
    if (s.type == Stmt::kSet && s.target.parts.empty() && s.target.attribute.empty() &&
        is_content_access(*s.expr)) {
      aliases.push_back(s.target.name);
    }
  }
  const auto is_content = [&](const Expr* e) {
    while (e != nullptr && (e->type == Expr::kSlice || e->type == Expr::kFilter)) e = e->args[0];
    if (e == nullptr) return false;
    if (e->type == Expr::kName) {
      return std::find(aliases.begin(), aliases.end(), e->symbol) != aliases.end();
    }
    return is_content_access(*e);
  };
  for (const Stmt& s : program.stmts) {
    if (s.type == Stmt::kFor && is_content(s.expr)) return ContentFormat::kParts;
  }
  for (const Expr& e : program.exprs) {
    const bool takes_parts =
        e.type == Expr::kFilter && (e.name == "map" || e.name == "select" || e.name == "reject" ||
                                    e.name == "selectattr" || e.name == "rejectattr");
    if (takes_parts && is_content(e.args[0])) return ContentFormat::kParts;
  }
  return ContentFormat::kString;
}

Compiled compile_one(ChatTemplateSource source) {
  Compiled compiled;
  if (!jinja::is_valid_utf8(source.text)) {
    throw FormatError(source.origin, "the chat template is not valid UTF-8");
  }
  try {
    compiled.program = jinja::parse(source.text);
  } catch (const TemplateError& error) {
    throw FormatError(source.origin, fmt::format("chat template '{}', line {}: {}", source.name,
                                                 error.line(), error.what()));
  }
  compiled.format = detect_format(*compiled.program);
  compiled.source = std::move(source);
  return compiled;
}

tl::unexpected<Error> render_failure(const TemplateError& error) {
  if (error.kind() == TemplateError::kRaised) {
    return fail(ErrorCode::kInvalidArgument, error.what(), "messages");
  }
  const ErrorCode code = error.kind() == TemplateError::kLimit ? ErrorCode::kResourceExhausted
                                                               : ErrorCode::kInvalidArgument;
  return fail(code,
              fmt::format("the chat template cannot render these messages: {} (template line {})",
                          error.what(), error.line()),
              "messages");
}

// The text behind which the final message stays open. Like transformers' tag it ends in a space, so
// that a template's trimming of the content can be seen.
constexpr std::string_view kTag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kTagWord = "CONTINUE_FINAL_MESSAGE_TAG";

tl::unexpected<Error> cannot_continue(std::string_view why) {
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("continue_final_message is set, but {}", why), "continue_final_message");
}

// Appends the tag to the last message's text; returns that text without it.
Result<std::string> tag_final_message(Json& messages) {
  Json& last = messages.as_array().back();
  const Json* content = last.find("content");
  if (content == nullptr || content->is_null()) {
    return cannot_continue("the final message has no content to continue");
  }
  if (content->is_string()) {
    const std::string text = content->as_string();
    last.set("content", text + std::string(kTag));
    return text;
  }
  Json parts = *content;
  for (auto part = parts.as_array().rbegin(); part != parts.as_array().rend(); ++part) {
    const Json* found = part->find("text");
    if (found == nullptr) continue;
    const std::string text = found->as_string();
    part->set("text", text + std::string(kTag));
    last.set("content", std::move(parts));
    return text;
  }
  return cannot_continue("there is no text in the final message");
}

// Cuts `rendered` at the tag.
Result<void> cut_at_tag(RenderedChat& rendered, const std::string& final_text) {
  const std::string_view wanted = jinja::strip(final_text, nullptr, true, true);
  const std::string_view text = rendered.text;
  const size_t at = text.rfind(kTagWord);
  if (at == std::string::npos || text.find(wanted) == std::string::npos) {
    return cannot_continue("the chat template does not write the final message as it is");
  }
  std::string_view head = text.substr(0, at);
  // Where the template trimmed the message, the open end must be trimmed, too.
  if (!text.substr(at).starts_with(kTag)) head = jinja::strip(head, nullptr, false, true);
  rendered.text.resize(head.size());
  std::erase_if(rendered.literal, [&](const TextSpan& s) { return s.begin >= head.size(); });
  if (!rendered.literal.empty()) {
    rendered.literal.back().end = std::min(rendered.literal.back().end, head.size());
  }
  return {};
}

Result<void> check_kwargs(const Json& kwargs) {
  static constexpr std::string_view kReserved[] = {"messages", "tools", "documents",
                                                   "add_generation_prompt"};
  if (kwargs.is_null()) return {};
  if (!kwargs.is_object()) {
    return fail(ErrorCode::kInvalidArgument, "chat_template_kwargs must be an object",
                "chat_template_kwargs");
  }
  for (const std::string_view name : kReserved) {
    if (kwargs.find(name) == nullptr) continue;
    const std::string param = fmt::format("chat_template_kwargs.{}", name);
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} is a field of the request itself; set it there", param), param);
  }
  return {};
}

Result<void> check_list_of_objects(const Json& list, std::string_view name) {
  if (list.is_null()) return {};
  if (!list.is_array()) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} must be an array", name),
                std::string(name));
  }
  for (size_t i = 0; i < list.as_array().size(); ++i) {
    if (list.as_array()[i].is_object()) continue;
    const std::string param = fmt::format("{}[{}]", name, i);
    return fail(ErrorCode::kInvalidArgument, param + " must be an object", param);
  }
  return {};
}

/// Words that templates build markers from: roles, and options given as kwargs.
bool is_plain_word(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

/// Views of every string and key in `json`.
void collect_texts(const Json& json, std::vector<std::string_view>& texts) {
  if (json.is_string()) {
    texts.push_back(json.as_string());
  } else if (json.is_array()) {
    for (const Json& item : json.as_array()) collect_texts(item, texts);
  } else if (json.is_object()) {
    for (const auto& [key, value] : json.as_object()) {
      texts.push_back(key);
      collect_texts(value, texts);
    }
  }
}

/// The same for an object, without the member `option` (every member when "") where its value is a
/// plain word.
void collect_texts_but(const Json& object, std::string_view option,
                       std::vector<std::string_view>& texts) {
  for (const auto& [key, value] : object.as_object()) {
    const bool trusted =
        (option.empty() || key == option) && value.is_string() && is_plain_word(value.as_string());
    texts.push_back(key);
    if (!trusted) collect_texts(value, texts);
  }
}

/// What of a request is its own text (RenderedChat::literal).
std::vector<std::string_view> literal_texts(const Json& messages,
                                            const ChatRenderOptions& options) {
  std::vector<std::string_view> texts;
  if (options.parse_special_in_messages) return texts;
  for (const Json& message : messages.as_array()) collect_texts_but(message, "role", texts);
  collect_texts(options.tools, texts);
  collect_texts(options.documents, texts);
  if (options.kwargs.is_object()) collect_texts_but(options.kwargs, {}, texts);
  return texts;
}

Result<void> check_options(const ChatRenderOptions& options) {
  if (options.add_generation_prompt && options.continue_final_message) {
    return cannot_continue("add_generation_prompt is set as well; choose one");
  }
  if (Result<void> r = check_list_of_objects(options.tools, "tools"); !r) return r;
  if (Result<void> r = check_list_of_objects(options.documents, "documents"); !r) return r;
  return check_kwargs(options.kwargs);
}

}  // namespace

struct ChatTemplate::Impl {
  std::vector<Compiled> templates;  // the default first
  std::vector<std::pair<std::string, Json>> special_tokens;
  WallClock clock;

  [[nodiscard]] const Compiled& pick(bool with_tools) const {
    for (const Compiled& t : templates) {
      if (with_tools && t.source.name == "tool_use") return t;
    }
    return templates.front();
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

ChatTemplate ChatTemplate::compile(std::vector<ChatTemplateSource> sources,
                                   const SpecialTokens& special_tokens, WallClock clock) {
  NANO_CHECK(!sources.empty());
  auto impl = std::make_unique<Impl>();
  for (ChatTemplateSource& source : sources) {
    const bool is_default = source.name == "default";
    Compiled compiled = compile_one(std::move(source));
    impl->templates.insert(is_default ? impl->templates.begin() : impl->templates.end(),
                           std::move(compiled));
  }
  for (const auto& [name, text] : special_tokens) {
    impl->special_tokens.emplace_back(name, Json(text));
  }
  impl->clock = std::move(clock);
  return ChatTemplate(std::move(impl));
}

Result<RenderedChat> ChatTemplate::render(const Json& messages,
                                          const ChatRenderOptions& options) const {
  if (Result<void> r = check_chat_messages(messages); !r) return tl::unexpected(r.error());
  if (Result<void> r = check_options(options); !r) return tl::unexpected(r.error());
  const Compiled& chosen = impl_->pick(!options.tools.is_null());

  Result<Json> prepared = prepare_chat_messages(messages, chosen.format);
  if (!prepared) return tl::unexpected(prepared.error());
  std::string final_text;
  if (options.continue_final_message) {
    Result<std::string> tagged = tag_final_message(*prepared);
    if (!tagged) return tl::unexpected(tagged.error());
    final_text = std::move(*tagged);
  }

  const Json generation(options.add_generation_prompt);
  jinja::Context context;
  context.clock = impl_->clock;
  for (const auto& [name, text] : impl_->special_tokens) {
    context.variables.emplace_back(name, &text);
  }
  if (options.kwargs.is_object()) {
    for (const auto& [name, value] : options.kwargs.as_object()) {
      context.variables.emplace_back(name, &value);
    }
  }
  context.variables.emplace_back("messages", &*prepared);
  context.variables.emplace_back("tools", &options.tools);
  context.variables.emplace_back("documents", &options.documents);
  context.variables.emplace_back("add_generation_prompt", &generation);
  context.literal_texts = literal_texts(*prepared, options);
  try {
    jinja::Rendered out = jinja::render(*chosen.program, context);
    RenderedChat rendered{std::move(out.text), std::move(out.literal)};
    if (options.continue_final_message) {
      if (Result<void> cut = cut_at_tag(rendered, final_text); !cut) {
        return tl::unexpected(cut.error());
      }
    }
    return rendered;
  } catch (const TemplateError& error) {
    return render_failure(error);
  }
}

ContentFormat ChatTemplate::content_format() const {
  return impl_->templates.front().format;
}

const std::string& ChatTemplate::origin() const {
  return impl_->templates.front().source.origin;
}

const std::string& ChatTemplate::text() const {
  return impl_->templates.front().source.text;
}

int64_t ChatTemplate::system_wall_clock() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace nanoflow
