#include "text/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kClock = 1'700'000'000;

ChatTemplate compile(const std::string& text, SpecialTokens tokens = {}) {
  return ChatTemplate::compile({{"default", text, "test"}}, std::move(tokens),
                               [] { return kClock; });
}

Json json(std::string_view text) {
  Result<Json> parsed = parse_json(text);
  if (!parsed) throw std::runtime_error(parsed.error().message);
  return std::move(*parsed);
}

Json user(const std::string& text) {
  return Json::array({Json::object({{"role", "user"}, {"content", text}})});
}

fs::path template_dir() {
  const char* dir = std::getenv("NANOFLOW_TEMPLATE_DIR");
  return dir != nullptr ? fs::path(dir) : fs::path(NANOFLOW_SOURCE_DIR) / ".deps/templates";
}

TEST(ChatTemplateGolden, RealTemplatesEqualTransformers) {
  if (!fs::is_directory(template_dir())) {
    FAIL() << template_dir() << " is missing; run ./test.sh, which fetches it";
  }
  const Json golden = json(read_file(std::string(NANOFLOW_FIXTURES) + "/chat_template/chats.json"));
  SpecialTokens tokens;
  for (const auto& [name, value] : golden.find("special_tokens")->as_object()) {
    tokens[name] = value.as_string();
  }
  // Some templates print today's date: the day on which the golden text was made.
  const int64_t now = golden.find("now")->as_int();
  const auto clock = [now] { return now; };
  size_t total = 0;
  size_t equal = 0;
  for (const auto& [name, cases] : golden.find("templates")->as_object()) {
    const fs::path path = template_dir() / (name + ".jinja");
    const ChatTemplate chat =
        ChatTemplate::compile(load_chat_template(path.string()), tokens, clock);
    for (const auto& [case_name, want] : cases.as_object()) {
      SCOPED_TRACE(name + " / " + case_name);
      const Json& input = *golden.find("inputs")->find(case_name);
      ChatRenderOptions options;
      options.kwargs = *golden.find("kwargs");
      for (const auto& [key, value] : input.find("arguments")->as_object()) {
        if (key == "add_generation_prompt") {
          options.add_generation_prompt = value.as_bool();
        } else if (key == "continue_final_message") {
          options.continue_final_message = value.as_bool();
        } else if (key == "tools") {
          options.tools = value;
        } else {
          options.kwargs.set(key, value);
        }
      }
      ++total;
      const Result<RenderedChat> got = chat.render(*input.find("messages"), options);
      const Json* text = want.find("text");
      if (text == nullptr) {
        EXPECT_FALSE(got.has_value()) << got->text;
        if (got.has_value()) continue;
        if (want.find("raised")->as_bool()) {
          EXPECT_EQ(got.error().message, want.find("error")->as_string());
        }
        ++equal;
        continue;
      }
      ASSERT_TRUE(got.has_value()) << got.error().message;
      EXPECT_EQ(got->text, text->as_string());
      equal += got->text == text->as_string() ? 1 : 0;
    }
  }
  EXPECT_EQ(equal, total);
  EXPECT_GE(total, 600U);
  RecordProperty("total", static_cast<int>(total));
}

constexpr const char* kPlain =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

TEST(ChatTemplateRender, AddsTheGenerationPromptOnRequest) {
  const ChatTemplate chat = compile(kPlain);
  EXPECT_EQ(chat.render(user("a"), {}).value().text, "<user>a<assistant>");
  ChatRenderOptions options;
  options.add_generation_prompt = false;
  EXPECT_EQ(chat.render(user("a"), options).value().text, "<user>a");
}

TEST(ChatTemplateRender, PassesTokensAndKwargs) {
  const ChatTemplate chat = compile(
      "{{ bos_token }}{{ x }}{{ pad_token }}{{ tools is none }}"
      "{{ documents[0].title }}{{ strftime_now('%Y') }}",
      {{"bos_token", "<s>"}, {"pad_token", "<p>"}});
  ChatRenderOptions options;
  options.kwargs = json(R"({"x": [1, null], "pad_token": "mine"})");
  options.documents = json(R"([{"title": "T"}])");
  EXPECT_EQ(chat.render(user("a"), options).value().text, "<s>[1, None]mineTrueT2023");
}

TEST(ChatTemplateRender, ContentPartsAreJoinedOnlyForTemplatesThatWantText) {
  const Json parts = json(R"([{"role": "user", "content":
      [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])");
  const ChatTemplate plain = compile(kPlain);
  EXPECT_EQ(plain.content_format(), ContentFormat::kString);
  EXPECT_EQ(plain.render(parts, {}).value().text, "<user>a\nb<assistant>");
  for (const char* source :
       {"{% for m in messages %}{% for p in m['content'] %}{{ p.text }};{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% for p in c %}{{ p.text }};{% endfor %}"
        "{% endfor %}",
        "{% for m in messages %}{{ m.content | map(attribute='text') | join(';') }};{% endfor "
        "%}"}) {
    const ChatTemplate walking = compile(source);
    EXPECT_EQ(walking.content_format(), ContentFormat::kParts) << source;
    EXPECT_EQ(walking.render(parts, {}).value().text, "a;b;");
  }
}

TEST(ChatTemplateRender, ToolArgumentsGivenAsTextBecomeObjects) {
  const ChatTemplate chat = compile(
      "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.city }}"
      "{% endfor %}{% endfor %}");
  const auto call = [](const char* arguments) {
    Json messages = json(R"([{"role": "assistant", "content": null, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}])");
    Json function = Json::object({{"name", "f"}, {"arguments", arguments}});
    Json calls = *messages.as_array()[0].find("tool_calls");
    calls.as_array()[0].set("function", function);
    messages.as_array()[0].set("tool_calls", calls);
    return messages;
  };
  EXPECT_EQ(chat.render(call(R"({"city": "Köln"})"), {}).value().text, "Köln");
  EXPECT_EQ(chat.render(call(""), {}).value().text, "");
  for (const char* bad : {"{", "[1]", "3"}) {
    const Result<RenderedChat> got = chat.render(call(bad), {});
    ASSERT_FALSE(got.has_value());
    EXPECT_EQ(got.error().param, "messages[0].tool_calls[0].function.arguments");
  }
}

TEST(ChatTemplateRender, ContentThatIsLeftOutBesideToolCallsIsEmptyText) {
  const ChatTemplate chat =
      compile("{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}");
  for (const char* content : {"", R"("content": null, )"}) {
    const Json messages = json(fmt::format(
        R"([{{"role": "assistant", {}"tool_calls": [{{"function": {{"name": "f"}}}}]}}])",
        content));
    const Result<RenderedChat> got = chat.render(messages, {});
    ASSERT_TRUE(got.has_value()) << got.error().message;
    EXPECT_EQ(got->text, "assistant:");
  }
}

TEST(ChatTemplateRender, PicksTheToolTemplateWhenThereAreTools) {
  const ChatTemplate chat =
      ChatTemplate::compile({{"tool_use", "TOOLS", "a"}, {"default", "PLAIN", "b"}}, {});
  EXPECT_EQ(chat.render(user("a"), {}).value().text, "PLAIN");
  EXPECT_EQ(chat.origin(), "b");
  ChatRenderOptions options;
  options.tools = json(R"([{"type": "function", "function": {"name": "f"}}])");
  EXPECT_EQ(chat.render(user("a"), options).value().text, "TOOLS");
}

TEST(ChatTemplateRender, ContinuesTheFinalMessage) {
  const Json messages = json(
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer "}])");
  ChatRenderOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  const ChatTemplate keeps = compile("{% for m in messages %}[{{ m.content }}]{% endfor %}");
  EXPECT_EQ(keeps.render(messages, options).value().text, "[q][The answer ");
  const ChatTemplate trims = compile("{% for m in messages %}[{{ m.content | trim }}]{% endfor %}");
  EXPECT_EQ(trims.render(messages, options).value().text, "[q][The answer");
  const ChatTemplate drops = compile("{{ messages[0].content }}");
  EXPECT_EQ(drops.render(messages, options).error().param, "continue_final_message");
  options.add_generation_prompt = true;
  EXPECT_EQ(keeps.render(messages, options).error().param, "continue_final_message");
}

TEST(ChatTemplateErrors, BadTemplatesAreEnvironmentErrorsThatNameOriginAndLine) {
  try {
    compile("ok\n{% for %}");
    FAIL() << "compiled";
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("test"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("line 2"), std::string::npos) << error.what();
  }
  EXPECT_THROW(compile("\xff\xfe"), FormatError);
}

TEST(ChatTemplateErrors, RaiseExceptionEndsTheRequestInTheTemplatesOwnWords) {
  const ChatTemplate chat = compile("{{ raise_exception('Roles must alternate!') }}");
  const Result<RenderedChat> got = chat.render(user("a"), {});
  EXPECT_EQ(got.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(got.error().message, "Roles must alternate!");
  const Result<RenderedChat> run = compile("\n{{ messages[0].x.y }}").render(user("a"), {});
  EXPECT_NE(run.error().message.find("template line 2"), std::string::npos) << run.error().message;
  const Result<RenderedChat> limit =
      compile("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").render(user("a"), {});
  EXPECT_EQ(limit.error().code, ErrorCode::kResourceExhausted);
}

TEST(ChatTemplateErrors, MalformedMessagesNameTheField) {
  const ChatTemplate chat = compile(kPlain);
  const auto param = [&](const char* messages) {
    const Result<RenderedChat> got = chat.render(json(messages), {});
    return got.has_value() ? "rendered " + got->text : got.error().param;
  };
  EXPECT_EQ(param("{}"), "messages");
  EXPECT_EQ(param("[]"), "messages");
  EXPECT_EQ(param("[1]"), "messages[0]");
  EXPECT_EQ(param(R"([{"content": "a"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": 1, "content": "a"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": "", "content": "a"}])"), "messages[0].role");
  EXPECT_EQ(param(R"([{"role": "user"}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": null}])"), "messages[0].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": "a"}, {"role": "user", "content": 3}])"),
            "messages[1].content");
  EXPECT_EQ(param(R"([{"role": "user", "content": [3]}])"), "messages[0].content[0]");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{}]}])"), "messages[0].content[0].type");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
            "messages[0].content[0].type");
  EXPECT_EQ(param(R"([{"role": "user", "content": [{"type": "text", "text": 1}]}])"),
            "messages[0].content[0].text");
  EXPECT_EQ(param(R"([{"role": "user", "content": "a", "name": 1}])"), "messages[0].name");
  EXPECT_EQ(param(R"([{"role": "assistant", "tool_calls": 1}])"), "messages[0].tool_calls");
  EXPECT_EQ(param(R"([{"role": "assistant", "tool_calls": [{}]}])"),
            "messages[0].tool_calls[0].function");
  EXPECT_EQ(param(R"([{"role": "assistant", "tool_calls": [{"function": {}}]}])"),
            "messages[0].tool_calls[0].function.name");
  EXPECT_EQ(param(R"([{"role": "assistant"}])"), "rendered <assistant><assistant>");
}

TEST(ChatTemplateErrors, BadOptionsNameTheField) {
  const ChatTemplate chat = compile(kPlain);
  const auto param = [&](const ChatRenderOptions& options) {
    const Result<RenderedChat> got = chat.render(user("a"), options);
    return got.has_value() ? "rendered " + got->text : got.error().param;
  };
  ChatRenderOptions options;
  options.tools = 3;
  EXPECT_EQ(param(options), "tools");
  options.tools = json("[{}, 1]");
  EXPECT_EQ(param(options), "tools[1]");
  options = {};
  options.documents = json("[[]]");
  EXPECT_EQ(param(options), "documents[0]");
  options = {};
  options.kwargs = 1;
  EXPECT_EQ(param(options), "chat_template_kwargs");
  options.kwargs = json(R"({"messages": []})");
  EXPECT_EQ(param(options), "chat_template_kwargs.messages");
}

class ChatTemplateFiles : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((dir_ / name).parent_path());
    std::ofstream(dir_ / name) << text;
  }
  const TestFolder folder_;
  const fs::path dir_ = folder_.path();
};

TEST_F(ChatTemplateFiles, AreFoundInOrder) {
  EXPECT_TRUE(find_chat_template(dir_.string()).empty());
  write("tokenizer_config.json", R"({"chat_template": "from config", "bos_token": "<s>",
      "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null, "x": "y"})");
  EXPECT_EQ(find_chat_template(dir_.string()).at(0).text, "from config");
  write("chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(find_chat_template(dir_.string()).at(0).text, "from json");
  write("chat_template.jinja", "from jinja");
  write("additional_chat_templates/tool_use.jinja", "with tools");
  const auto found = find_chat_template(dir_.string());
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].text, "from jinja");
  EXPECT_EQ(found[1].name, "tool_use");
  write("special_tokens_map.json", R"({"unk_token": "<unk>", "bos_token": "other"})");
  const SpecialTokens tokens = find_special_tokens(dir_.string());
  EXPECT_EQ(tokens,
            (SpecialTokens{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}));
}

TEST_F(ChatTemplateFiles, TheListFormNamesItsTemplates) {
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "D"},
      {"name": "tool_use", "template": "T"}]})");
  const auto found = find_chat_template(dir_.string());
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[1].name + found[1].text, "tool_useT");
  for (const char* bad : {R"({"chat_template": 3})", R"({"chat_template": [{"name": "x"}]})", "[]",
                          "{", R"({"chat_template": {"a": 1}})"}) {
    write("tokenizer_config.json", bad);
    EXPECT_THROW(find_chat_template(dir_.string()), FormatError) << bad;
  }
}

// A GGUF file of metadata only: strings, ids and a list of strings.
std::string small_gguf() {
  std::string out = "GGUF";
  const auto number = [&](uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(v >> (8 * i));
  };
  const auto text = [&](std::string_view s) {
    number(s.size(), 8);
    out += s;
  };
  number(3, 4);  // version
  number(0, 8);  // tensors
  number(4, 8);  // metadata entries
  for (const auto& [key, value] : {std::pair{"tokenizer.chat_template", "PLAIN"},
                                   std::pair{"tokenizer.chat_template.tool_use", "TOOLS"}}) {
    text(key);
    number(8, 4);  // string
    text(value);
  }
  text("tokenizer.ggml.bos_token_id");
  number(4, 4);  // uint32
  number(1, 4);
  text("tokenizer.ggml.tokens");
  number(9, 4);  // array
  number(8, 4);  // of strings
  number(2, 8);
  text("a");
  text("<s>");
  return out;
}

TEST_F(ChatTemplateFiles, GgufCarriesTemplatesAndTokens) {
  write("m.gguf", small_gguf());
  const std::string path = (dir_ / "m.gguf").string();
  const auto found = find_chat_template(path);
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].text + found[1].name + found[1].text, "PLAINtool_useTOOLS");
  EXPECT_EQ(find_special_tokens(path), (SpecialTokens{{"bos_token", "<s>"}}));
}

TEST_F(ChatTemplateFiles, BuiltInsAndFilesAreLoadedByName) {
  const ChatTemplate chatml = ChatTemplate::compile(load_chat_template("chatml"), {});
  EXPECT_EQ(chatml.render(user("a"), {}).value().text,
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n");
  const ChatTemplate llama = ChatTemplate::compile(load_chat_template("llama-2"),
                                                   {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  EXPECT_EQ(llama
                .render(json(R"([{"role": "system", "content": "S"},
      {"role": "user", "content": " a "}, {"role": "assistant", "content": "b"},
      {"role": "user", "content": "c"}])"),
                        {})
                .value()
                .text,
            "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n a [/INST] b </s><s>[INST] c [/INST]");
  EXPECT_EQ(llama.render(json(R"([{"role": "assistant", "content": "b"}])"), {}).error().message,
            "Conversation roles must alternate user/assistant/user/assistant/...");
  write("mine.jinja", "mine");
  EXPECT_EQ(load_chat_template((dir_ / "mine.jinja").string()).at(0).text, "mine");
  EXPECT_THROW(load_chat_template("no-such"), ConfigError);
}

}  // namespace
}  // namespace nanoflow
