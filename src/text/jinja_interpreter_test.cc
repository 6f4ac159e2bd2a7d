#include "text/jinja_interpreter.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/mmap.h"
#include "text/jinja_parser.h"

namespace nanoflow::jinja {
namespace {

constexpr int64_t kClock = 1'700'000'000;

std::string render_text(std::string_view source, const Json& variables = Json::object(),
                        Limits limits = {}) {
  const std::unique_ptr<const Program> program = parse(source);
  Context context;
  context.clock = [] { return kClock; };
  context.limits = limits;
  for (const auto& [name, value] : variables.as_object()) {
    context.variables.emplace_back(name, &value);
  }
  return render(*program, context).text;
}

// The error that rendering `source` ends with; fails the test when there is none.
TemplateError failure(std::string_view source, const Json& variables = Json::object(),
                      Limits limits = {}) {
  try {
    const std::string text = render_text(source, variables, limits);
    ADD_FAILURE() << "rendered: " << text.substr(0, 200);
  } catch (const TemplateError& error) {
    return error;
  }
  return {TemplateError::kRun, "none"};
}

Json load_golden(const std::string& name) {
  const std::string path = std::string(NANOFLOW_FIXTURES) + "/chat_template/" + name;
  Result<Json> json = parse_json(read_file(path));
  if (!json) throw std::runtime_error(path + ": " + json.error().message);
  return std::move(*json);
}

// Every snippet must render what Jinja renders in transformers' environment, or fail where it
// fails.
TEST(JinjaGolden, EverySnippetEqualsJinja) {
  const Json golden = load_golden("snippets.json");
  size_t equal = 0;
  const Json::Array& cases = golden.find("cases")->as_array();
  for (const Json& one : cases) {
    const std::string& source = one.find("template")->as_string();
    const Json* text = one.find("text");
    std::string got;
    try {
      got = render_text(source, *one.find("variables"));
    } catch (const TemplateError& error) {
      if (text != nullptr) {
        ADD_FAILURE() << source << "\nfailed: " << error.what()
                      << "\nwanted: " << text->as_string();
        continue;
      }
      EXPECT_GE(error.line(), 1) << source;
      if (one.find("raised")->as_bool()) {
        EXPECT_EQ(error.kind(), TemplateError::kRaised) << source;
        EXPECT_EQ(error.what(), one.find("error")->as_string());
      }
      ++equal;
      continue;
    }
    if (text == nullptr) {
      ADD_FAILURE() << source << "\nrendered: " << got
                    << "\nJinja fails: " << one.find("error")->as_string();
      continue;
    }
    EXPECT_EQ(got, text->as_string()) << source;
    equal += got == text->as_string() ? 1 : 0;
  }
  EXPECT_EQ(equal, cases.size());
  RecordProperty("equal", static_cast<int>(equal));
  EXPECT_GE(cases.size(), 200U);
}

TEST(JinjaFunctions, StrftimeNowFormatsTheInjectedClock) {
  setenv("TZ", "UTC", 1);
  EXPECT_EQ(render_text("{{ strftime_now('%d %b %Y %H:%M') }}"), "14 Nov 2023 22:13");
  EXPECT_EQ(render_text("[{{ strftime_now('') }}] {{ strftime_now('%f|%Z|%%') }}"), "[] 000000||%");
  EXPECT_EQ(failure("{{ strftime_now('%A' * 600) }}").kind(), TemplateError::kRun);
}

TEST(JinjaErrors, NameTheLineAndTheConstruct) {
  const auto check = [](std::string_view source, int line, std::string_view words) {
    const TemplateError error = failure(source);
    EXPECT_EQ(error.line(), line) << source;
    EXPECT_NE(std::string_view(error.what()).find(words), std::string_view::npos) << error.what();
  };
  check("a\n{% include 'x' %}", 2, "'include'");
  check("\n\n{{ x | urlize }}", 3, "the filter 'urlize' is not supported");
  check("{{ 1 is\nfancy }}", 2, "the test 'fancy'");
  check("{{ lipsum() }}", 1, "'lipsum'");
  check("{% for x in y recursive %}{% endfor %}", 1, "recursive");
  check("{% if x %}\n\nx", 3, "'endif' is missing");
  check("a\n{{\n  u.x }}", 3, "'u' is undefined");
  check("a\nb {{ 'x'.encode() }}", 2, "'encode' is not supported");
}

TEST(JinjaLimits, StepsMemoryOutputAndDepthAreBounded) {
  const auto expect_limit = [](std::string_view source, Limits limits = {}) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(failure(source, Json::object(), limits).kind(), TemplateError::kLimit) << source;
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60)) << source;
  };
  Limits small;
  small.steps = 200'000;
  small.heap_bytes = 4 << 20;
  small.output_bytes = 1 << 20;
  const std::string r = "{% for i in range(100000) %}";
  expect_limit(r + r + r + "{% endfor %}{% endfor %}{% endfor %}", small);
  expect_limit(r + "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}", small);
  expect_limit("{% set ns = namespace(x='ab') %}" + r + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
               small);
  expect_limit("{{ 'a' * 1000000000000 }}");
  expect_limit("{{ ['a'] * 9223372036854775807 }}");
  expect_limit(
      "{{ [1] | tojson(indent=' ' * 900) | indent(900000000) }}x{{ 'a\nb' | indent(900000000) }}");
  expect_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  expect_limit("{% macro m(x) %}{{ m(x) ~ m(x) }}{% endmacro %}{{ m(1) }}");
  expect_limit(
      "{% set ns = namespace(x=1) %}" + r + "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", {});
  expect_limit("{% set ns = namespace(x=1) %}" + r +
               "{% set ns.x = (ns.x,) %}{% endfor %}{{ {ns.x: 1} }}");
  expect_limit(
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson | length }}",
      small);
  expect_limit(
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
      "{{ ns.x == ns.y }}",
      small);
}

// std::string_view::find is quadratic; texts like these would keep it busy for very long.
TEST(JinjaLimits, SearchesOfLongTextsAreBounded) {
  const std::string texts =
      "{% set s = 'a' * 8000000 %}{% set p = 'a' * 4000000 + 'b' + 'a' * 3000000 %}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(render_text(texts + "{{ p in s }}"), "False");
  EXPECT_EQ(render_text(texts + "{{ s.find(p) }} {{ s.split(p) | length }}"), "-1 1");
  EXPECT_EQ(render_text(texts + "{{ s.replace(p, '') == s }} {{ s.count(p) }}"), "True 0");
  EXPECT_EQ(failure(texts + "{{ s.rfind(p) }}").kind(), TemplateError::kLimit);
  EXPECT_EQ(failure(texts + "{{ s.rsplit(p, 1) }}").kind(), TemplateError::kLimit);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(JinjaLimits, DeepTemplatesAreRefusedWhenParsed) {
  const auto expect_syntax = [](const std::string& source) {
    EXPECT_EQ(failure(source).kind(), TemplateError::kSyntax);
  };
  const auto times = [](int n, const std::string& text) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  expect_syntax("{{ " + times(100000, "(") + "1" + times(100000, ")") + " }}");
  expect_syntax("{{ " + times(100000, "[") + times(100000, "]") + " }}");
  expect_syntax("{{ " + times(100000, "-") + "1 }}");
  expect_syntax("{{ " + times(100000, "not ") + "1 }}");
  expect_syntax("{{ 1" + times(100000, " + 1") + " }}");
  expect_syntax("{{ x" + times(100000, ".y") + " }}");
  expect_syntax("{{ x" + times(100000, " | trim") + " }}");
  expect_syntax("{{ 1" + times(100000, " if 1 else 1") + " }}");
  expect_syntax(times(100000, "{% if 1 %}") + times(100000, "{% endif %}"));
  EXPECT_EQ(render_text("{{ 1" + times(250, " + 1") + " }}"), "251");
  EXPECT_EQ(render_text("{% if 0 %}" + times(2000, "{% elif 0 %}") + "{% else %}x{% endif %}"),
            "x");
}

TEST(JinjaInput, DeepAndHugeValuesOfARequestAreBounded) {
  Json deep = 1;
  for (int i = 0; i < 500; ++i) deep = Json::array({deep});
  EXPECT_EQ(failure("{{ x }}", Json::object({{"x", deep}})).kind(), TemplateError::kRun);
  Json wide = Json::object();
  for (int i = 0; i < 20000; ++i) {
    wide.as_object().emplace_back("k" + std::to_string(i % 15000), i);
  }
  EXPECT_EQ(
      render_text("{{ x | length }} {{ x.k1 }} {{ (x | list)[2] }}", Json::object({{"x", wide}})),
      "15000 15001 k2");
}

TEST(JinjaArithmetic, OverflowIsAnErrorNotAWrap) {
  for (const char* source :
       {"{{ 9223372036854775807 + 1 }}", "{{ 4611686018427387904 * 2 }}", "{{ 2 ** 63 }}",
        "{{ -9223372036854775807 - 2 }}", "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ (-9223372036854775807 - 1) | abs }}", "{{ '9223372036854775808' | int }}",
        "{{ 1e300 | int }}", "{{ '%d' % 1e300 }}"}) {
    EXPECT_EQ(failure(source).kind(), TemplateError::kRun) << source;
  }
  EXPECT_EQ(render_text("{{ (-9223372036854775807 - 1) % -1 }}"), "0");
  EXPECT_EQ(
      render_text("{{ [1, 2, 3][::9223372036854775807] }}{{ [1, 2][::-9223372036854775807] }}"),
      "[1][2]");
  EXPECT_EQ(failure("{{ 9223372036854775808 }}").kind(), TemplateError::kSyntax);
}

TEST(JinjaNamespace, MayContainItself) {
  EXPECT_EQ(render_text("{% set n = namespace() %}{% set n.n = n %}{{ n.n.n is defined }}"),
            "True");
  EXPECT_EQ(failure("{% set n = namespace() %}{% set n.n = n %}{{ n }}").kind(),
            TemplateError::kRun);
}

TEST(JinjaLoops, AMacroKeepsTheIterationInWhichItWasDefined) {
  EXPECT_EQ(render_text("{% set n = namespace(m=none) %}{% for i in [1, 2, 3] %}"
                        "{% if i == 2 %}{% macro f() %}{{ i }}{% endmacro %}{% set n.m = f %}"
                        "{% endif %}{% endfor %}{{ n.m() }}"),
            "2");
}

TEST(JinjaPrograms, AreSharedBetweenThreads) {
  const std::unique_ptr<const Program> program =
      parse("{% macro m(x) %}<{{ x }}>{% endmacro %}{% for c in s %}{{ m(c) }}{% endfor %}");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&program, t] {
      const Json text(std::string(1, static_cast<char>('a' + t)) + "é");
      Context context;
      context.clock = [] { return kClock; };
      context.variables.emplace_back("s", &text);
      const std::string want = "<" + text.as_string().substr(0, 1) + "><é>";
      for (int i = 0; i < 200; ++i) EXPECT_EQ(render(*program, context).text, want);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace nanoflow::jinja
