// nanoflow pull: downloads a hub model into the shared cache; and pull_model() for the commands
// that are given a hub id.
#include "app/pull.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "app/commands.h"
#include "app/signals.h"
#include "base/log.h"
#include "base/progress.h"
#include "formats/hub.h"

namespace nanoflow {
namespace {

struct PullArguments {
  std::string model;
  PullOptions pull;
};

PullResult pull_with_bar(const std::string& repo, PullOptions options) {
  Logger logger(LogLevel::kWarning);
  std::unique_ptr<ProgressBar> bar;  // none as long as there is nothing to wait for
  options.cancel = &interrupted();
  options.on_progress = [&](const HubProgress& progress) {
    if (bar == nullptr && progress.files_done == progress.files_total) return;
    if (bar == nullptr)
      bar = std::make_unique<ProgressBar>("Downloading " + repo, progress.bytes_total,
                                          ProgressBar::Unit::kBytes, stderr);
    bar->set(progress.bytes_done);
  };
  return HubClient(hub_settings_from_environment(), logger).pull(repo, options);
}

int run(const PullArguments& arguments) {
  fmt::print("{}\n", pull_with_bar(arguments.model, arguments.pull).path.string());
  return 0;
}

}  // namespace

std::filesystem::path pull_model(const std::string& repo, const std::string& revision) {
  PullOptions options;
  if (!revision.empty()) options.revision = revision;
  options.prefer_cache = true;
  return pull_with_bar(repo, std::move(options)).path;
}

void add_pull(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("pull", "Download a hub model, print its folder");
  auto a = std::make_shared<PullArguments>();  // shared by the options and the command they run
  sub->add_option("model,-m,--model", a->model, "Hub id, org/name")->required();
  sub->add_option("--revision", a->pull.revision, "Branch, tag or commit")->capture_default_str();
  sub->add_option("--include", a->pull.include,
                  "Shell pattern of files to fetch, may be repeated; default: what serving needs")
      ->allow_extra_args(false);
  sub->add_option("--exclude", a->pull.exclude, "Shell pattern of files to leave, may be repeated")
      ->allow_extra_args(false);
  sub->footer(
      "What has arrived is kept when a download is interrupted: run the same command again.\n"
      "Files lie where the huggingface_hub package keeps and finds them too: HF_HUB_CACHE, else\n"
      "HF_HOME/hub, else ~/.cache/huggingface/hub. HF_TOKEN opens gated models, HF_ENDPOINT names\n"
      "a mirror, HF_HUB_OFFLINE=1 forbids the network.\n\n"
      "Examples:\n"
      "  nanoflow pull Qwen/Qwen2.5-0.5B-Instruct\n"
      "  nanoflow pull org/model-GGUF --include '*Q4_K_M.gguf'\n"
      "  nanoflow pull org/model --revision v1.0 --exclude '*.txt'");
  sub->callback([a, &command] { command = [a] { return run(*a); }; });
}

}  // namespace nanoflow
