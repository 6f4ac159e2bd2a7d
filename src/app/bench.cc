// nanoflow bench throughput: how many tokens per second, and how far that is from what the hardware
// could do.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "api/throughput.h"
#include "app/ceilings.h"
#include "app/commands.h"
#include "app/options.h"
#include "app/serving_stack.h"
#include "app/signals.h"
#include "base/mmap.h"
#include "base/progress.h"

namespace nanoflow {
namespace {

struct BenchOptions {
  ModelOptions model;
  WorkloadOptions workload;
  std::string trace;
  std::string json;
};

/// The report's figures beside the ceilings of the same process.
struct Report {
  const ThroughputResult& result;
  const BusySnapshot busy;
  const Ceilings& ceilings;
  const ModelConfig& model;
  const EngineConfig& engine;
  DType dtype;

  [[nodiscard]] double parameters() const { return static_cast<double>(model.parameters().active); }
  [[nodiscard]] double tokens() const {
    return static_cast<double>(result.serving.prompt_tokens() + result.serving.output_tokens());
  }
  [[nodiscard]] double whole_run() const { return tokens() / result.elapsed_s; }
  /// tok/s if every token cost its GEMM FLOPs at the measured rate and nothing else (DESIGN:
  /// compute optimum).
  [[nodiscard]] double compute_optimum() const { return ceilings.gemm_flops / (2 * parameters()); }
  /// The same plus reading every decode's context at the measured bandwidth, one after the other.
  [[nodiscard]] double sequential_roofline() const {
    const double kv_bytes = static_cast<double>(result.kv_tokens_read) *
                            static_cast<double>(model.kv_bytes_per_token(dtype, engine.tp_size));
    const double seconds = tokens() / compute_optimum() + kv_bytes / ceilings.read_bytes_per_s;
    return tokens() / seconds;
  }
};

/// Shares of the device's busy time, largest first.
std::vector<std::pair<std::string, double>> op_shares(const BusySnapshot& busy) {
  std::vector<std::pair<std::string, double>> shares;
  for (const auto& [op, ns] : busy.op_ns)
    if (ns > 0)
      shares.emplace_back(op, static_cast<double>(ns) / static_cast<double>(busy.total_ns()));
  std::sort(shares.begin(), shares.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  return shares;
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

Json busy_json(const BusySnapshot& busy, double elapsed_s) {
  Json ops = Json::object();
  for (const auto& [op, value] : op_shares(busy)) ops.set(op, value);
  return Json::object({{"compute", share(busy.resource_ns[0], busy.total_ns())},
                       {"memory", share(busy.resource_ns[1], busy.total_ns())},
                       {"network", share(busy.resource_ns[2], busy.total_ns())},
                       {"ops", std::move(ops)},
                       {"overlap", share(busy.overlap_ns, busy.any_ns)},
                       {"device_busy", static_cast<double>(busy.any_ns) * 1e-9 / elapsed_s}});
}

Json to_json(const Report& r) {
  const ThroughputResult& t = r.result;
  Json json = t.serving.to_json(t.elapsed_s);
  json.set("steady_tok_per_s", t.steady_tok_per_s);
  json.set("steady_s", t.steady_s);
  json.set("compute_optimum_tok_per_s", r.compute_optimum());
  json.set("percent_of_compute_optimum", 100 * r.whole_run() / r.compute_optimum());
  json.set("steady_percent_of_compute_optimum", 100 * t.steady_tok_per_s / r.compute_optimum());
  json.set("sequential_roofline_tok_per_s", r.sequential_roofline());
  json.set("gemm_ceiling_flops", r.ceilings.gemm_flops);
  json.set("read_ceiling_bytes_per_s", r.ceilings.read_bytes_per_s);
  json.set("steps", t.steps);
  json.set("preemptions", t.preemptions);
  json.set("recomputed_tokens", t.recomputed_tokens);
  json.set("wasted_rows", t.wasted_rows);
  json.set("requests_cut_off", t.requests_cut_off);
  json.set("active_parameters", r.model.parameters().active);
  json.set("step_time", busy_json(r.busy, t.elapsed_s));
  json.set("engine", r.engine.to_json());
  return json;
}

void print(const Report& r) {
  const auto line = [](std::string_view name, const std::string& value) {
    fmt::print("  {:<22}{}\n", name, value);
  };
  const ThroughputResult& t = r.result;
  fmt::print("Throughput\n{}", t.serving.table(t.elapsed_s));
  line("whole run",
       fmt::format("{:.1f} tok/s = {:.1f} % of the compute optimum ({:.0f} tok/s)", r.whole_run(),
                   100 * r.whole_run() / r.compute_optimum(), r.compute_optimum()));
  line("steady state",
       fmt::format("{:.1f} tok/s = {:.1f} % (middle half of the tokens, {:.1f} s)",
                   t.steady_tok_per_s, 100 * t.steady_tok_per_s / r.compute_optimum(), t.steady_s));
  line("sequential roofline", fmt::format("{:.0f} tok/s (GEMMs, then KV reads, at the ceilings)",
                                          r.sequential_roofline()));
  line("ceilings", fmt::format("GEMM {:.1f} GFLOP/s, read {:.1f} GB/s (measured in this process)",
                               r.ceilings.gemm_flops * 1e-9, r.ceilings.read_bytes_per_s * 1e-9));
  const BusySnapshot& busy = r.busy;
  line("step time",
       fmt::format(
           "compute {:.1f} %, memory {:.1f} %, network {:.1f} %; device busy {:.1f} % of the "
           "run, {:.1f} % of that on two lanes or more",
           100 * share(busy.resource_ns[0], busy.total_ns()),
           100 * share(busy.resource_ns[1], busy.total_ns()),
           100 * share(busy.resource_ns[2], busy.total_ns()),
           100 * static_cast<double>(busy.any_ns) * 1e-9 / t.elapsed_s,
           100 * share(busy.overlap_ns, busy.any_ns)));
  std::string ops;
  for (const auto& [op, value] : op_shares(busy))
    if (value >= 0.005)
      ops += fmt::format("{}{} {:.1f} %", ops.empty() ? "" : ", ", op, 100 * value);
  line("ops", ops);
  line("steps", fmt::format("{} ({} preemptions, {} tokens computed again, {} wasted rows)",
                            t.steps, t.preemptions, t.recomputed_tokens, t.wasted_rows));
}

int run(BenchOptions o) {
  o.workload.trace = o.trace;
  o.workload.seed = o.model.seed;
  o.model.skip_tokenizer_init = true;  // token ids in, token ids out
  ServingStack stack = ServingStack::load(o.model);
  const std::vector<WorkItem> workload =
      make_workload(o.workload, stack.text().limits.max_model_len);
  const DType dtype = *stack.engine_config().dtype;
  const Ceilings ceilings = measure_ceilings(o.model.threads, dtype);
  ProgressBar bar("Requests", static_cast<int64_t>(workload.size()), ProgressBar::Unit::kCount,
                  stderr);
  const SteadyClock clock;
  const BusySnapshot before = stack.busy();
  const ThroughputResult result = run_throughput(stack.engine(), workload, clock, interrupted(),
                                                 [&](int64_t finished) { bar.set(finished); });
  bar.finish();
  const Report report{
      result, stack.busy().since(before), ceilings, stack.model_config(), stack.engine_config(),
      dtype};
  print(report);
  if (!o.json.empty()) write_file_atomically(o.json, to_json(report).dump(2) + "\n");
  return interrupted() ? 130 : 0;
}

}  // namespace

void add_bench(CLI::App& app, Command& command) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed");
  bench->require_subcommand(1);
  CLI::App* sub = bench->add_subcommand("throughput", "Tokens per second of a synthetic workload");
  auto o = std::make_shared<BenchOptions>();  // shared by the options and the command they run
  sub->add_option("--input-len", o->workload.input_len, "Prompt tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--output-len", o->workload.output_len, "Generated tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--range-ratio", o->workload.range_ratio,
                  "Lengths vary by this share around the mean")
      ->check(CLI::Range(0.0, 0.99));
  sub->add_option("--trace", o->trace, "CSV of lengths instead: input_len,output_len")
      ->check(CLI::ExistingFile);
  sub->add_flag("--trace-in-order", o->workload.trace_in_order,
                "Take the trace's rows from the first on instead of drawing them");
  sub->add_option("--num-requests,--num-prompts", o->workload.num_requests,
                  "Default: 1000, or all rows of the trace")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--request-rate", o->workload.request_rate,
                  "Poisson arrivals per second; 0: all at once")
      ->check(CLI::NonNegativeNumber);
  sub->add_option("--json", o->json, "Write the report as JSON");
  add_model_options(*sub, o->model);
  sub->footer(
      "Examples:\n"
      "  nanoflow bench throughput --model ./Llama-3-8B --load-format dummy --input-len 1024 "
      "--output-len 512\n"
      "  nanoflow bench throughput --model model.gguf --trace bench/traces/sharegpt.csv "
      "--num-requests 200\n"
      "  nanoflow bench throughput --model model.gguf --request-rate 4 --json report.json");
  sub->callback([o, &command] { command = [o] { return run(*o); }; });
}

}  // namespace nanoflow
