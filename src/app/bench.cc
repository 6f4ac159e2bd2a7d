// nanoflow bench throughput: how many tokens per second, and how far that is from what the hardware
// could do.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/throughput.h"
#include "app/ceilings.h"
#include "app/commands.h"
#include "app/device_choice.h"
#include "app/device_metrics.h"
#include "app/energy_meter.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "app/throughput_report.h"
#include "base/mmap.h"
#include "base/progress.h"

namespace nanoflow {
namespace {

constexpr double kEnergyPollS = 5;  // counters start over after minutes at the earliest

// A GPU's timed steps are slower by their time stamps; a CPU's are not.
constexpr int64_t kGpuTimedStepInterval = 16;

struct BenchOptions {
  ModelOptions model;
  std::optional<int64_t> timed_step_interval;
  WorkloadOptions workload;
  std::string trace;
  std::string json;
};

int run(BenchOptions o) {
  if (!o.json.empty()) require_writable(o.json);  // not after minutes of work
  o.workload.trace = o.trace;
  o.workload.seed = o.model.seed;
  o.model.skip_tokenizer_init = true;  // token ids in, token ids out
  o.model.timed_step_interval = o.timed_step_interval.value_or(
      choose_device(o.model.device).is_cuda ? kGpuTimedStepInterval : 1);
  ServingStack stack = ServingStack::load(o.model);
  const std::vector<WorkItem> workload =
      make_workload(o.workload, stack.text().limits.max_model_len);
  const DType dtype = *stack.engine_config().dtype;
  const Device where = stack.device().device;
  const bool on_cpu = where.kind == Device::Kind::kHost;
  const DeviceChoice device{.is_cuda = !on_cpu, .ordinal = where.ordinal};
  const Ceilings ceilings = measure_ceilings(device, o.model.threads, dtype);
  ProgressBar bar("Requests", static_cast<int64_t>(workload.size()), ProgressBar::Unit::kCount,
                  stderr);
  const SteadyClock clock;
  const BusySnapshot before = stack.busy();
  const std::unique_ptr<EnergyMeter> energy = make_energy_meter(device);
  double polled_s = clock.now_s();
  const ThroughputResult result =
      run_throughput(stack.engine(), workload, clock, interrupted(), [&](int64_t finished) {
        bar.set(finished);
        if (clock.now_s() - polled_s < kEnergyPollS) return;
        energy->poll();
        polled_s = clock.now_s();
      });
  energy->poll();
  bar.finish();
  const ThroughputReport report{.result = result,
                                .busy = stack.busy().since(before),
                                .ceilings = ceilings,
                                .model = stack.model_config(),
                                .engine = stack.engine_config(),
                                .device = stack.device(),
                                .energy = *energy};
  report.print();
  if (!o.json.empty()) {
    Json json = report.to_json();
    json.set("model", stack.text().name);
    json.set("device", stack.device().name);
    json.set("workload", o.workload.to_json());
    write_file_atomically(o.json, json.dump(2) + "\n");
  }
  return interrupted() ? kInterruptedExit : 0;
}

}  // namespace

void add_bench(CLI::App& app, Command& command) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n"
      "  nanoflow bench throughput --model ./Llama-3-8B --input-len 1024 --output-len 512\n"
      "  nanoflow bench serve --port 8000 --random-input-len 1024 --random-output-len 128\n"
      "\"nanoflow bench throughput --help\" and \"nanoflow bench serve --help\" show their options "
      "and more\nexamples.");
  add_bench_serve(*bench, command);
  CLI::App* sub = bench->add_subcommand("throughput", "Tokens per second of a synthetic workload");
  auto o = std::make_shared<BenchOptions>();  // shared by the options and the command they run
  sub->add_option("--input-len", o->workload.input_len, "Prompt tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{INT64_MAX}))
      ->capture_default_str();
  sub->add_option("--output-len", o->workload.output_len, "Generated tokens")
      ->check(CLI::Range(int64_t{1}, int64_t{INT64_MAX}))
      ->capture_default_str();
  sub->add_option("--range-ratio", o->workload.range_ratio,
                  "Lengths vary by this share around the mean")
      ->check(number_between(0, 0.99));
  sub->add_option("--lengths", o->trace, "CSV of lengths instead: input_len,output_len")
      ->check(CLI::ExistingFile);
  sub->add_flag("--lengths-in-order", o->workload.trace_in_order,
                "Take the rows of --lengths from the first on instead of drawing them");
  sub->add_option("--num-requests,--num-prompts", o->workload.num_requests,
                  "Default: 1000, or all rows of --lengths")
      ->check(CLI::Range(int64_t{1}, kMaxWorkloadRequests));
  sub->add_option("--request-rate", o->workload.request_rate,
                  "Poisson arrivals per second; 0: all at once")
      ->check(number_between(0, 1e6));
  sub->add_option("--timed-step-interval", o->timed_step_interval,
                  "Measure the operations of one step in this many; 0: of none. Default: 16 on a "
                  "GPU, 1 on a CPU")
      ->check(CLI::Range(int64_t{0}, int64_t{INT32_MAX}));
  sub->add_option("--json", o->json, "Write the report as JSON");
  add_model_options(*sub, o->model);
  add_skip_tokenizer_option(*sub, o->model);  // so scripts may say what is always so here
  sub->footer(
      "Examples:\n"
      "  nanoflow bench throughput --model ./Llama-3-8B --load-format dummy --input-len 1024 "
      "--output-len 512\n"
      "  nanoflow bench throughput --model model.gguf --lengths bench/traces/sharegpt.csv "
      "--num-requests 200\n"
      "  nanoflow bench throughput --model model.gguf --request-rate 4 --json report.json");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
