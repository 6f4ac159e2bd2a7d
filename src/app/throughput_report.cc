#include "app/throughput_report.h"

#include <string>

#include <fmt/format.h>

#include "app/datasheet.h"
#include "app/step_times.h"

namespace nanoflow {
namespace {

void print_line(std::string_view name, const std::string& value) {
  fmt::print("  {:<22}{}\n", name, value);
}

}  // namespace

double ThroughputReport::tokens() const {
  return static_cast<double>(result.serving.prompt_tokens() + result.serving.output_tokens());
}

double ThroughputReport::whole_run() const {
  return tokens() / result.elapsed_s;
}

double ThroughputReport::compute_optimum() const {
  return ceilings.gemm_flops / (2 * static_cast<double>(model.parameters().active));
}

double ThroughputReport::sequential_roofline() const {
  const double kv_bytes =
      static_cast<double>(result.kv_tokens_read) *
      static_cast<double>(model.kv_bytes_per_token(*engine.dtype, engine.tp_size));
  const double seconds = tokens() / compute_optimum() + kv_bytes / ceilings.read_bytes_per_s;
  return seconds > 0 ? tokens() / seconds : 0;
}

std::optional<double> ThroughputReport::mfu() const {
  const std::optional<double> peak = datasheet_flops(device.name, *engine.dtype);
  if (!peak.has_value()) return std::nullopt;
  return whole_run() * 2 * static_cast<double>(model.parameters().active) /
         (*peak * engine.tp_size);
}

Json ThroughputReport::to_json() const {
  const ThroughputResult& t = result;
  Json json = t.serving.to_json(t.elapsed_s);
  json.set("steady_tok_per_s", t.steady_tok_per_s);
  json.set("steady_s", t.steady_s);
  json.set("compute_optimum_tok_per_s", compute_optimum());
  json.set("percent_of_compute_optimum", 100 * whole_run() / compute_optimum());
  json.set("steady_percent_of_compute_optimum", 100 * t.steady_tok_per_s / compute_optimum());
  json.set("sequential_roofline_tok_per_s", sequential_roofline());
  json.set("gemm_ceiling_flops", ceilings.gemm_flops);
  json.set("read_ceiling_bytes_per_s", ceilings.read_bytes_per_s);
  json.set("steps", t.steps);
  json.set("preemptions", t.preemptions);
  json.set("recomputed_tokens", t.recomputed_tokens);
  json.set("wasted_rows", t.wasted_rows);
  json.set("requests_cut_off", t.requests_cut_off);
  json.set("active_parameters", model.parameters().active);
  const std::optional<double> share_of_peak = mfu();
  json.set("mfu_percent", share_of_peak.has_value() ? Json(100 * *share_of_peak) : Json());
  const std::optional<double> joules = energy.joules();
  const bool has_energy = joules.has_value() && *joules > 0 && tokens() > 0;
  json.set("joules_per_token", has_energy ? Json(*joules / tokens()) : Json());
  json.set("tokens_per_joule", has_energy ? Json(tokens() / *joules) : Json());
  json.set("mean_watts", has_energy ? Json(*joules / t.elapsed_s) : Json());
  json.set("step_time", step_times_json(busy, ceilings));
  json.set("engine", engine.to_json());
  return json;
}

void ThroughputReport::print() const {
  const ThroughputResult& t = result;
  fmt::print("Throughput\n{}", t.serving.table(t.elapsed_s));
  print_line("whole run",
             fmt::format("{:.1f} tok/s = {:.1f} % of the compute optimum ({:.0f} tok/s)",
                         whole_run(), 100 * whole_run() / compute_optimum(), compute_optimum()));
  print_line("steady state",
             t.steady_s > 0
                 ? fmt::format("{:.1f} tok/s = {:.1f} % (middle half of the tokens, {:.1f} s)",
                               t.steady_tok_per_s, 100 * t.steady_tok_per_s / compute_optimum(),
                               t.steady_s)
                 : std::string("n/a (the run was too short)"));
  print_line(
      "sequential roofline",
      fmt::format("{:.0f} tok/s (GEMMs, then KV reads, at the ceilings)", sequential_roofline()));
  print_line("ceilings",
             fmt::format("GEMM {:.1f} GFLOP/s, read {:.1f} GB/s (measured in this process)",
                         ceilings.gemm_flops * 1e-9, ceilings.read_bytes_per_s * 1e-9));
  print_line("MFU", mfu().has_value()
                        ? fmt::format("{:.1f} % of the datasheet's FLOP/s", 100 * *mfu())
                        : std::string("n/a (no datasheet figure for this device)"));
  const std::optional<double> joules = energy.joules();
  print_line("energy",
             joules.has_value() && *joules > 0
                 ? fmt::format("{:.3g} J per token = {:.3g} tokens per joule, {:.0f} W",
                               *joules / tokens(), tokens() / *joules, *joules / t.elapsed_s)
                 : fmt::format("n/a ({})",
                               joules.has_value() ? "the counter stood still" : energy.problem()));
  for (const auto& [name, text] : step_times_lines(busy, ceilings)) print_line(name, text);
  print_line("steps", fmt::format("{} ({} preemptions, {} tokens computed again, {} wasted rows)",
                                  t.steps, t.preemptions, t.recomputed_tokens, t.wasted_rows));
}

}  // namespace nanoflow
