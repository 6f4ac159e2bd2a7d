// nanoflow generate: one prompt, or a chat on the terminal, streamed token by token.
#include <unistd.h>
#include <cstdio>
#include <iostream>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/completion.h"
#include "api/serving_stats.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "base/error.h"

namespace nanoflow {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt;
  std::string system;
  bool chat = false;
  int64_t max_tokens = 256;
  double temperature = -1;
  double top_p = -1;
  int64_t top_k = -1;
  int64_t request_seed = -1;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool stats = false;
};

void set_sampling(Json& body, const GenerateOptions& o) {
  body.set("max_tokens", o.max_tokens);
  if (o.temperature >= 0) body.set("temperature", o.temperature);
  if (o.top_p >= 0) body.set("top_p", o.top_p);
  if (o.top_k >= 0) body.set("top_k", o.top_k);
  if (o.request_seed >= 0) body.set("seed", o.request_seed);
  if (o.ignore_eos) body.set("ignore_eos", true);
  if (o.stop.empty()) return;
  Json::Array stop;
  for (const std::string& text : o.stop) stop.emplace_back(text);
  body.set("stop", std::move(stop));
}

/// Streams the answer to `body` on stdout. The text, or why the request failed.
Result<std::string> stream(ServingStack& stack, Endpoint endpoint, const Json& body,
                           RequestId& next_id, ServingStats& stats) {
  using namespace std::chrono_literals;
  Result<OpenAiRequest> request = parse_openai_request(endpoint, body, stack.text().defaults);
  if (!request.has_value()) return tl::unexpected(request.error());
  Result<Completion> completion =
      Completion::create(stack.text(), std::move(*request), "generate", next_id);
  if (!completion.has_value()) return tl::unexpected(completion.error());
  const auto events = std::make_shared<EventQueue>();  // the engine keeps it until the request ends
  std::vector<Request> requests = completion->take_engine_requests();
  const RequestId id = next_id++;
  const Result<RequestHandle> handle = stack.engine().submit(std::move(requests.front()), events);
  if (!handle.has_value()) return tl::unexpected(handle.error());
  while (!completion->done()) {
    if (interrupted()) stack.engine().cancel(id);
    for (const TokenEvent& event : events->pop_all(100ms)) {
      const ChoiceDelta delta = completion->on_event(event);
      std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
      std::fflush(stdout);
      if (delta.cancel) stack.engine().cancel(id);
    }
  }
  if (const std::optional<Error> error = completion->error()) return tl::unexpected(*error);
  const Choice& choice = completion->choices().front();
  stats.add(choice.times, completion->prompt_tokens(), completion->output_tokens());
  return choice.text;
}

Json message(const char* role, const std::string& content) {
  return Json::object({{"role", role}, {"content", content}});
}

int run_once(ServingStack& stack, const GenerateOptions& o, ServingStats& stats) {
  Json body = Json::object();
  if (o.chat) {
    Json messages{Json::Array{}};
    if (!o.system.empty()) messages.push_back(message("system", o.system));
    messages.push_back(message("user", o.prompt));
    body.set("messages", std::move(messages));
  } else {
    body.set("prompt", o.prompt);
  }
  set_sampling(body, o);
  RequestId next_id = 1;
  const Endpoint endpoint = o.chat ? Endpoint::kChatCompletions : Endpoint::kCompletions;
  const Result<std::string> text = stream(stack, endpoint, body, next_id, stats);
  std::fputc('\n', stdout);
  if (text.has_value()) return interrupted() ? 130 : 0;
  fmt::print(stderr, "nanoflow: {}\n", text.error().message);
  return 1;
}

int run_chat(ServingStack& stack, const GenerateOptions& o, ServingStats& stats) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print(stderr, "Chat; an empty line or Ctrl-D ends it.\n");
  Json messages{Json::Array{}};
  if (!o.system.empty()) messages.push_back(message("system", o.system));
  RequestId next_id = 1;
  std::string line;
  while (!interrupted()) {
    if (terminal) fmt::print(stderr, "> ");
    if (!std::getline(std::cin, line) || line.empty()) return 0;
    messages.push_back(message("user", line));
    Json body = Json::object({{"messages", messages}});
    set_sampling(body, o);
    const Result<std::string> text =
        stream(stack, Endpoint::kChatCompletions, body, next_id, stats);
    std::fputc('\n', stdout);
    if (text.has_value()) {
      messages.push_back(message("assistant", *text));
      continue;
    }
    fmt::print(stderr, "nanoflow: {}\n", text.error().message);
    if (!terminal) return 1;
    messages.as_array().pop_back();  // the person may rephrase
  }
  return 130;
}

int run(const GenerateOptions& o) {
  ServingStack stack = ServingStack::load(o.model);
  ServingStats stats;
  const SteadyClock clock;
  const double start_s = clock.now_s();
  const int code = o.prompt.empty() ? run_chat(stack, o, stats) : run_once(stack, o, stats);
  if (o.stats) fmt::print(stderr, "\n{}", stats.table(clock.now_s() - start_s));
  return code;
}

}  // namespace

void add_generate(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("generate", "Answer one prompt, or chat on the terminal");
  auto o = std::make_shared<GenerateOptions>();  // shared by the options and the command they run
  sub->add_option("-p,--prompt", o->prompt, "Text to continue; without it: an interactive chat");
  sub->add_flag("--chat", o->chat, "Put --prompt through the model's chat template");
  sub->add_option("--system", o->system, "System message of a chat");
  sub->add_option("-n,--max-tokens", o->max_tokens, "Output tokens at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--temperature", o->temperature, "0 is greedy; default: the model's, else 1")
      ->check(CLI::Range(0.0, 100.0));
  sub->add_option("--top-p", o->top_p, "Smallest set of tokens with this probability");
  sub->add_option("--top-k", o->top_k, "Only the k likeliest tokens; 0: all");
  sub->add_option("--request-seed", o->request_seed, "The same seed gives the same text");
  sub->add_option("--stop", o->stop, "End at this text (may be given several times)")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  sub->add_flag("--ignore-eos", o->ignore_eos, "Generate to the limit");
  sub->add_flag("--stats", o->stats, "Print latencies and rates at the end");
  add_model_options(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow generate --model model.gguf --prompt \"The capital of France is\" -n 16\n"
      "  nanoflow generate --model ./Llama-3-8B-Instruct --chat --prompt \"Why is the sky blue?\"\n"
      "  nanoflow generate --model HuggingFaceTB/SmolLM2-135M-Instruct");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
