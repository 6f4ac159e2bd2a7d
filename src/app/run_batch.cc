// nanoflow run-batch: a data set through the engine, answers to a file, to the terminal, or both.
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/batch_runner.h"
#include "api/printable.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "app/standard_output.h"
#include "base/error.h"
#include "base/mmap.h"
#include "base/progress.h"

namespace nanoflow {
namespace {

constexpr int kInterruptedExit = 130;   // 128 + SIGINT, as shells report it
constexpr size_t kShownPrompt = 200;    // characters
constexpr size_t kShownMessage = 1000;  // characters
constexpr int64_t kMaxTokens = INT32_MAX;

struct RunBatchOptions {
  ModelOptions model;
  std::string input;
  std::string output;
  std::string order;
  std::string json;
  bool resume = false;
  bool overwrite = false;
  bool print = false;
  std::optional<int64_t> max_tokens;
  std::optional<double> temperature;
  bool ignore_eos = false;
};

/// A text in full, a list of token ids or of parts by its beginning.
std::string beginning(const Json& value) {
  if (value.is_string()) return shortened(value.as_string(), kShownPrompt);
  if (!value.is_array()) return shortened(value.dump(), kShownPrompt);
  std::string text;
  for (const Json& element : value.as_array()) {
    text += text.empty() ? "[" : ",";
    text += element.is_string() ? beginning(element) : shortened(element.dump(), kShownPrompt);
    if (text.size() > kShownPrompt) return shortened(text, kShownPrompt);
  }
  return text + (text.empty() ? "[]" : "]");
}

/// What the item asked, for the line that shows its answer: the prompt, or the last message.
std::string shown_prompt(const DatasetItem& item) {
  if (!item.body.has_value()) return {};
  if (const Json* prompt = item.body->find("prompt"); prompt != nullptr) return beginning(*prompt);
  const Json* messages = item.body->find("messages");
  if (messages == nullptr || !messages->is_array() || messages->as_array().empty()) return {};
  const Json* content = messages->as_array().back().find("content");
  return content == nullptr ? std::string() : beginning(*content);
}

/// An engine's message leaves the field to Error::param.
std::string with_field(const Error& error) {
  const bool named = error.param.empty() || error.message.find(error.param) != std::string::npos;
  return named ? error.message : fmt::format("{}: {}", error.param, error.message);
}

void print_result(const BatchResult& result) {
  std::string line = fmt::format("[{}] {}", result.item.index, one_line(shown_prompt(result.item)));
  if (result.error.has_value()) {
    line += fmt::format(" => ERROR {}\n",
                        one_line(shortened(with_field(*result.error), kShownMessage)));
  } else {
    for (const Choice& choice : result.completion->choices())
      line += fmt::format(" => {}", one_line(choice.text));
    line += '\n';
  }
  write_stdout(line);
}

Json default_fields(const RunBatchOptions& o) {
  Json defaults = Json::object();
  if (o.max_tokens.has_value()) defaults.set("max_tokens", *o.max_tokens);
  if (o.temperature.has_value()) defaults.set("temperature", *o.temperature);
  if (o.ignore_eos) defaults.set("ignore_eos", true);
  return defaults;
}

/// Whether two names are of one file; false when one is of none.
bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return std::filesystem::equivalent(a == "-" ? "/dev/stdin" : a, b, ignored) && !ignored &&
         std::filesystem::is_regular_file(b, ignored);
}

/// Throws before anything is loaded or written when a result could not be, or would destroy another
/// file of this run.
void check_files(const RunBatchOptions& o) {
  if (same_file(o.input, o.output))
    throw ConfigError("--output-file", fmt::format("{} is the data set itself", o.output));
  if (o.json.empty()) return;
  if (same_file(o.input, o.json) || o.json == o.output || same_file(o.output, o.json))
    throw ConfigError("--summary-json",
                      fmt::format("{} is the data set or the output file", o.json));
  require_writable(o.json);
}

std::optional<BatchOutput> open_output(const RunBatchOptions& o) {
  if (o.output.empty()) return std::nullopt;
  const BatchOutput::Mode mode = o.resume      ? BatchOutput::Mode::kResume
                                 : o.overwrite ? BatchOutput::Mode::kOverwrite
                                               : BatchOutput::Mode::kCreate;
  std::error_code ignored;
  const bool can_sort = !std::filesystem::exists(o.output, ignored) ||
                        std::filesystem::is_regular_file(o.output, ignored);
  const bool sorted = o.order.empty() ? can_sort : o.order == "input";
  return std::optional<BatchOutput>(std::in_place, o.output, mode, sorted);
}

/// What ends the run on the terminal and in --summary-json; the exit code.
int report(const RunBatchOptions& o, const BatchRunner& runner, double elapsed_s) {
  fmt::print(stderr, "\n{}", runner.stats().table(elapsed_s));
  if (!o.json.empty())
    write_file_atomically(o.json, runner.stats().to_json(elapsed_s).dump(2) + "\n");
  const char* resume = o.output.empty() ? "" : "; the same command with --resume ";
  if (runner.was_interrupted()) {
    fmt::print(stderr, "interrupted{}{}\n", resume,
               o.output.empty() ? "" : "goes on where this stopped");
    return kInterruptedExit;
  }
  if (runner.stats().failed() == 0) return 0;
  fmt::print(stderr, "nanoflow: {} failed{}{}\n",
             runner.stats().failed() == 1 ? "a request"
                                          : fmt::format("{} requests", runner.stats().failed()),
             resume, o.output.empty() ? "" : "tries again");
  return 1;
}

int run(const RunBatchOptions& o) {
  check_files(o);
  DatasetReader reader(o.input);
  std::optional<BatchOutput> output = open_output(o);
  bool print = o.print || o.output.empty();
  ServingStack stack = ServingStack::load(o.model);
  const int64_t already = output.has_value() ? output->num_done() : 0;
  ProgressBar bar("Serving", reader.count(), ProgressBar::Unit::kCount, stderr);
  int64_t finished = already;
  const auto on_result = [&](const BatchResult& result) {
    try {
      if (print) bar.print_above([&] { print_result(result); });
    } catch (const OutputClosed&) {
      if (o.output.empty()) throw;  // nobody is left to serve for
      print = false;
    }
    bar.set(++finished);
  };
  const auto on_ignored_column = [&](const std::string& name) {
    bar.print_above([&] {
      fmt::print(stderr, "note: \"{}\" of the data set is no request field and has no effect\n",
                 one_line(shortened(name, kShownPrompt)));
    });
  };
  BatchRunner runner(stack.engine(), stack.text(),
                     {.max_in_flight = 4 * stack.engine_config().max_num_seqs,
                      .defaults = default_fields(o),
                      .on_ignored_column = on_ignored_column},
                     output.has_value() ? &*output : nullptr, on_result);
  if (already > 0) {
    fmt::print(stderr, "resuming: {} requests are done\n", already);
    if (reader.is_regular()) {
      DatasetReader again(o.input);
      runner.check_resumed(again);
    }
  }
  bar.set(already);
  const SteadyClock clock;
  const double start_s = clock.now_s();
  runner.run(reader, interrupted());
  bar.finish();
  return report(o, runner, clock.now_s() - start_s);
}

}  // namespace

void add_run_batch(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("run-batch", "Serve a data set of prompts");
  auto o = std::make_shared<RunBatchOptions>();  // shared by the options and the command they run
  sub->add_option("-i,--input-file,--dataset", o->input,
                  "JSON lines with \"prompt\" or \"messages\", OpenAI batch lines, or ShareGPT "
                  "JSON; - is standard input")
      ->required();
  CLI::Option* output = sub->add_option("-o,--output-file", o->output,
                                        "OpenAI batch output, one JSON line per request");
  sub->add_option("--order", o->order,
                  "Lines of the output file when the run has ended: input, or finished, which is "
                  "also what a run that is killed leaves. Default: input; finished into a pipe")
      ->check(CLI::IsMember({"input", "finished"}))
      ->needs(output);
  CLI::Option* resume = sub->add_flag(
      "--resume", o->resume,
      "Go on with the output file of an interrupted run; serves failed requests again");
  resume->needs(output);
  sub->add_flag("--overwrite", o->overwrite, "Replace an existing output file")
      ->needs(output)
      ->excludes(resume);
  sub->add_flag("--print", o->print,
                "One line per finished request on stdout, its prompt cut to 200 characters "
                "(default without -o)");
  sub->add_option("--summary-json", o->json, "Write the summary as JSON");
  sub->add_option("--max-tokens", o->max_tokens, "Output limit of requests that set none")
      ->check(CLI::Range(int64_t{1}, kMaxTokens));
  sub->add_option("--temperature", o->temperature, "For requests that set none; 0 is greedy")
      ->check(number_between(0, 100));
  sub->add_flag("--ignore-eos", o->ignore_eos, "Generate to the limit");
  add_model_options(*sub, o->model);
  add_skip_tokenizer_option(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow run-batch -i prompts.jsonl --model model.gguf --max-tokens 64\n"
      "  nanoflow run-batch -i batch.jsonl -o answers.jsonl --model ./Llama-3-8B\n"
      "  nanoflow run-batch -i batch.jsonl -o answers.jsonl --model ./Llama-3-8B --resume\n"
      "  zcat prompts.jsonl.gz | nanoflow run-batch -i - --model model.gguf\n"
      "Exit code: 0 when every request was served, 1 when some failed or the run could not go on,\n"
      "2 for wrong usage, 130 when interrupted, 141 when the reader of stdout has gone.");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
