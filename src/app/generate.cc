// nanoflow generate: one prompt, or a chat on the terminal, streamed token by token.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/serving_stats.h"
#include "app/answer_stream.h"
#include "app/chat.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "app/standard_output.h"
#include "base/clock.h"

namespace nanoflow {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::optional<std::string> prompt;
  std::optional<std::string> system;
  bool chat = false;
  int64_t max_tokens = 256;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<int64_t> request_seed;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool stats = false;
};

// Of a person who says nothing, and whose model says nothing: llama.cpp's. Plain sampling at
// temperature 1, the default of the OpenAI API and so of run-batch, makes small models stray.
constexpr double kTemperature = 0.8;
constexpr double kTopP = 0.95;
constexpr int64_t kTopK = 40;

bool says_how_to_sample(const GenerationDefaults& g) {
  return g.do_sample.has_value() || g.temperature.has_value() || g.top_p.has_value() ||
         g.top_k.has_value() || g.min_p.has_value();
}

/// The body's fields that say how to sample.
Json sampling_fields(const GenerateOptions& o, const GenerationDefaults& model) {
  Json body = Json::object();
  const bool is_said = o.temperature.has_value() || o.top_p.has_value() || o.top_k.has_value();
  if (!is_said && !says_how_to_sample(model)) {
    body.set("temperature", kTemperature);
    body.set("top_p", kTopP);
    body.set("top_k", kTopK);
  }
  if (o.temperature.has_value()) body.set("temperature", *o.temperature);
  if (o.top_p.has_value()) body.set("top_p", *o.top_p);
  if (o.top_k.has_value()) body.set("top_k", *o.top_k);
  if (o.request_seed.has_value()) body.set("seed", *o.request_seed);
  if (o.ignore_eos) body.set("ignore_eos", true);
  if (o.stop.empty()) return body;
  Json::Array stop;
  for (const std::string& text : o.stop) stop.emplace_back(text);
  body.set("stop", std::move(stop));
  return body;
}

/// The answer to --prompt, sampled as `body` says; the context, `max_model_len` tokens, may end it
/// before --max-tokens does.
Result<std::string> answer_prompt(AnswerStream& stream, const GenerateOptions& o, Json body,
                                  int64_t max_model_len) {
  body.set("max_tokens", o.max_tokens);
  const bool chat = o.chat || o.system.has_value();  // a system message is a chat's
  if (chat) {
    Json messages{Json::Array{}};
    if (o.system.has_value()) messages.push_back(chat_message("system", *o.system));
    messages.push_back(chat_message("user", *o.prompt));
    body.set("messages", std::move(messages));
  } else {
    body.set("prompt", *o.prompt);
  }
  Result<Completion> completion =
      stream.prepare(chat ? Endpoint::kChatCompletions : Endpoint::kCompletions, body);
  if (!completion.has_value()) return tl::unexpected(completion.error());
  const int64_t room = max_model_len - completion->prompt_tokens();
  return stream.run(std::move(*completion), room > 0 ? std::min(o.max_tokens, room) : o.max_tokens);
}

int run_once(AnswerStream& stream, const GenerateOptions& o, Json body, int64_t max_model_len) {
  const Result<std::string> text = answer_prompt(stream, o, std::move(body), max_model_len);
  if (!text.has_value()) {
    fmt::print(stderr, "nanoflow: {}\n", text.error().message);
    return 1;
  }
  write_stdout("\n");
  return interrupted() ? kInterruptedExit : 0;
}

int run(const GenerateOptions& o) {
  ServingStack stack = ServingStack::load(o.model);
  ServingStats stats;
  const SteadyClock clock;
  const double start_s = clock.now_s();
  AnswerStream stream(stack, stats);
  const int64_t max_model_len = stack.text().limits.max_model_len;
  Json sampling = sampling_fields(o, stack.model_config().generation);
  const int code =
      o.prompt.has_value()
          ? run_once(stream, o, std::move(sampling), max_model_len)
          : run_chat(stream, {o.system, o.max_tokens, std::move(sampling)}, max_model_len);
  if (o.stats) fmt::print(stderr, "\n{}", stats.table(clock.now_s() - start_s));
  return code;
}

}  // namespace

void add_generate(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("generate", "Answer one prompt, or chat on the terminal");
  auto o = std::make_shared<GenerateOptions>();  // shared by the options and the command they run
  sub->add_option("-p,--prompt", o->prompt, "Text to continue; without it: an interactive chat");
  sub->add_flag("--chat", o->chat, "Put --prompt through the model's chat template");
  sub->add_option("--system", o->system, "System message; makes --prompt a chat's message");
  sub->add_option("-n,--max-tokens", o->max_tokens, "Output tokens at most")
      ->check(CLI::Range(int64_t{1}, int64_t{INT32_MAX}))
      ->capture_default_str();
  sub->add_option("--temperature", o->temperature,
                  fmt::format("0 is greedy; default without --top-p and --top-k: the model's "
                              "generation_config.json, else {} with top-p {} and top-k {}",
                              kTemperature, kTopP, kTopK))
      ->check(number_between(0, 100));
  sub->add_option("--top-p", o->top_p, "Smallest set of tokens with this probability")
      ->check(number_between(1e-9, 1));
  sub->add_option("--top-k", o->top_k, "Only the k likeliest tokens; 0: all")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}));
  sub->add_option("--request-seed", o->request_seed,
                  "The same seed gives the same text; any whole number");
  sub->add_option("--stop", o->stop, "End at this text (may be given several times)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  sub->add_flag("--ignore-eos", o->ignore_eos, "Generate to the limit");
  sub->add_flag("--stats", o->stats, "Print latencies and rates at the end");
  add_model_options(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow generate --model model.gguf --prompt \"The capital of France is\" -n 16 "
      "--temperature 0\n"
      "  nanoflow generate --model ./Llama-3-8B-Instruct --chat --prompt \"Why is the sky blue?\"\n"
      "  nanoflow generate --model HuggingFaceTB/SmolLM2-135M-Instruct");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
