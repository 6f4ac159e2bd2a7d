// nanoflow: one binary, one file per subcommand. main() wires the command line and turns exceptions
// into one line and an exit code: 0 done, 1 the environment or input failed, 2 bad usage, 130
// interrupted, 141 nobody reads stdout any more.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "app/commands.h"
#include "app/signals.h"
#include "app/standard_output.h"
#include "base/abandoned.h"
#include "base/error.h"
#include "version.h"

namespace {

/// What the standard library throws; the program's own exceptions say it better.
std::string explain(const std::system_error& error) {
  if (error.code() == std::errc::resource_unavailable_try_again)
    return "the system refuses another thread: lower --threads or --tensor-parallel-size, or raise "
           "the limit on processes (ulimit -u)";
  return error.what();
}

/// Runs the command; what it throws ends as one line.
int run(const nanoflow::Command& command) {
  try {
    return command();
  } catch (const nanoflow::OutputClosed&) {
    return nanoflow::kOutputClosedExit;
  } catch (const nanoflow::EnvironmentError& error) {
    fmt::print(stderr, "nanoflow: {}\n", error.what());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "nanoflow: out of host memory\n");
  } catch (const std::system_error& error) {
    fmt::print(stderr, "nanoflow: {}\n", explain(error));
  } catch (const std::exception& error) {
    fmt::print(stderr, "nanoflow: {}\n", error.what());
  }
  return nanoflow::interrupted() ? nanoflow::kInterruptedExit : 1;
}

}  // namespace

// Declaring options fails only by our own mistake or without memory, and then ends the program as
// it should. NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  CLI::App app{"NanoFlow: throughput-oriented LLM serving with device-level pipelines", "nanoflow"};
  app.set_version_flag("--version",
                       fmt::format("nanoflow {} ({})", nanoflow::kVersion, nanoflow::kCommit));
  app.require_subcommand(1);
  // A later value wins, so that scripts can put defaults in front of a person's options.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.footer(
      "Examples:\n"
      "  nanoflow serve --model ./Llama-3-8B-Instruct --port 8000\n"
      "  nanoflow generate --model ./SmolLM2 --prompt \"The capital of France is\"\n"
      "  nanoflow run-batch -i prompts.jsonl -o answers.jsonl --model model.gguf\n"
      "  nanoflow bench throughput --model ./Llama-3-8B --input-len 1024 --output-len 512\n"
      "\"nanoflow COMMAND --help\" shows a command's options and examples.");
  nanoflow::Command command;
  nanoflow::add_serve(app, command);
  nanoflow::add_generate(app, command);
  nanoflow::add_run_batch(app, command);
  nanoflow::add_bench(app, command);
  nanoflow::add_pull(app, command);
  nanoflow::add_inspect(app, command);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  nanoflow::install_signal_handlers();
  const int code = run(command);
  if (nanoflow::anything_abandoned()) {
    (void)std::fflush(nullptr);
    std::_Exit(code);
  }
  return code;
}
