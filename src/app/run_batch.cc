// nanoflow run-batch: a data set through the engine, answers to a file, to the terminal, or both.
#include <unistd.h>
#include <cstdio>
#include <string>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/batch_runner.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "base/error.h"
#include "base/mmap.h"
#include "base/progress.h"

namespace nanoflow {
namespace {

struct RunBatchOptions {
  ModelOptions model;
  std::string input;
  std::string output;
  std::string order = "input";
  std::string json;
  bool resume = false;
  bool overwrite = false;
  bool print = false;
  int64_t max_tokens = -1;
  double temperature = -1;
  bool ignore_eos = false;
};

/// Control characters as escapes, so that a result stays one line.
std::string one_line(std::string_view text) {
  std::string quoted;
  append_json_string(quoted, text);
  std::string escaped;
  for (size_t i = 1; i + 1 < quoted.size(); ++i) {
    // Only what would break the line stays escaped; quotes read better bare.
    if (quoted[i] == '\\' && i + 2 < quoted.size() && quoted[i + 1] == '"') continue;
    escaped += quoted[i];
  }
  return escaped;
}

/// What the item asked, for the line that shows its answer: the prompt, or the last message.
std::string shown_prompt(const DatasetItem& item) {
  if (!item.body.has_value()) return {};
  if (const Json* prompt = item.body->find("prompt"); prompt != nullptr)
    return prompt->is_string() ? prompt->as_string() : prompt->dump();
  const Json* messages = item.body->find("messages");
  if (messages == nullptr || !messages->is_array() || messages->as_array().empty()) return {};
  const Json* content = messages->as_array().back().find("content");
  if (content == nullptr) return {};
  return content->is_string() ? content->as_string() : content->dump();
}

void print_result(const BatchResult& result) {
  std::string line = fmt::format("[{}] {}", result.item.index, one_line(shown_prompt(result.item)));
  if (result.error.has_value()) {
    line += fmt::format(" => ERROR {}\n", one_line(result.error->message));
  } else {
    for (const Choice& choice : result.completion->choices())
      line += fmt::format(" => {}", one_line(choice.text));
    line += '\n';
  }
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fflush(stdout);
}

Json default_fields(const RunBatchOptions& o) {
  Json defaults = Json::object();
  if (o.max_tokens >= 0) defaults.set("max_tokens", o.max_tokens);
  if (o.temperature >= 0) defaults.set("temperature", o.temperature);
  if (o.ignore_eos) defaults.set("ignore_eos", true);
  return defaults;
}

std::optional<BatchOutput> open_output(const RunBatchOptions& o) {
  if (o.output.empty()) return std::nullopt;
  const BatchOutput::Mode mode = o.resume      ? BatchOutput::Mode::kResume
                                 : o.overwrite ? BatchOutput::Mode::kOverwrite
                                               : BatchOutput::Mode::kCreate;
  return std::optional<BatchOutput>(std::in_place, o.output, mode, o.order == "input");
}

int run(const RunBatchOptions& o) {
  DatasetReader reader(o.input);
  std::optional<BatchOutput> output = open_output(o);
  const bool print = o.print || o.output.empty();
  ServingStack stack = ServingStack::load(o.model);
  const int64_t already = output.has_value() ? output->num_done() : 0;
  if (already > 0) fmt::print(stderr, "resuming: {} of {} are done\n", already, reader.count());

  ProgressBar bar("Serving", reader.count(), ProgressBar::Unit::kCount, stderr);
  bar.set(already);
  int64_t finished = already;
  const SteadyClock clock;
  const double start_s = clock.now_s();
  const EngineConfig& config = stack.engine_config();
  BatchRunner runner(stack.engine(), stack.text(),
                     {.max_in_flight = 4 * config.max_num_seqs, .defaults = default_fields(o)},
                     output.has_value() ? &*output : nullptr, [&](const BatchResult& result) {
                       if (print) bar.print_above([&] { print_result(result); });
                       bar.set(++finished);
                     });
  runner.run(reader, interrupted());
  const double elapsed_s = clock.now_s() - start_s;
  bar.finish();
  fmt::print(stderr, "\n{}", runner.stats().table(elapsed_s));
  if (!o.json.empty())
    write_file_atomically(o.json, runner.stats().to_json(elapsed_s).dump(2) + "\n");
  if (runner.was_interrupted()) {
    fmt::print(
        stderr, "interrupted{}\n",
        o.output.empty() ? "" : "; the same command with --resume goes on where this stopped");
    return 130;
  }
  return stack.engine().healthy() ? 0 : 1;
}

}  // namespace

void add_run_batch(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("run-batch", "Serve a data set of prompts");
  auto o = std::make_shared<RunBatchOptions>();  // shared by the options and the command they run
  sub->add_option(
         "-i,--input-file,--dataset", o->input,
         "JSON lines with \"prompt\" or \"messages\", OpenAI batch lines, or ShareGPT JSON")
      ->required()
      ->check(CLI::ExistingFile);
  sub->add_option("-o,--output-file", o->output, "OpenAI batch output, one JSON line per request");
  sub->add_option("--order", o->order, "Lines of the output file: input, or finished")
      ->check(CLI::IsMember({"input", "finished"}))
      ->capture_default_str();
  sub->add_flag("--resume", o->resume, "Go on with an interrupted run's output file");
  sub->add_flag("--overwrite", o->overwrite, "Replace an existing output file");
  sub->add_flag("--print", o->print,
                "One line per finished request on stdout (default without -o)");
  sub->add_option("--summary-json", o->json, "Write the summary as JSON");
  sub->add_option("--max-tokens", o->max_tokens, "Output limit of requests that set none")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--temperature", o->temperature, "For requests that set none; 0 is greedy")
      ->check(CLI::Range(0.0, 100.0));
  sub->add_flag("--ignore-eos", o->ignore_eos, "Generate to the limit");
  add_model_options(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow run-batch -i prompts.jsonl --model model.gguf --max-tokens 64\n"
      "  nanoflow run-batch -i batch.jsonl -o answers.jsonl --model ./Llama-3-8B\n"
      "  nanoflow run-batch -i batch.jsonl -o answers.jsonl --model ./Llama-3-8B --resume");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
