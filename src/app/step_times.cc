#include "app/step_times.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

namespace nanoflow {
namespace {

/// What the timed steps say of all: parts of a step, and of the time from its end to the next's.
class Shares {
 public:
  explicit Shares(const BusySnapshot& busy) : busy_(busy) {}

  [[nodiscard]] double between() const { return busy_.idle_share(); }
  [[nodiscard]] double inside() const { return of_step(busy_.timed_ns - busy_.any_ns); }
  [[nodiscard]] double overlap() const { return of_step(busy_.overlap_ns); }
  [[nodiscard]] double kind(TimeKind kind) const { return of_step(busy_.kind(kind).ns); }
  /// Ops by name, the largest first.
  [[nodiscard]] std::vector<std::pair<std::string, double>> ops() const {
    std::vector<std::pair<std::string, double>> shares;
    for (const auto& [op, ns] : busy_.op_ns)
      if (ns > 0) shares.emplace_back(op, of_step(ns));
    std::sort(shares.begin(), shares.end(),
              [](const auto& a, const auto& b) { return a.second > b.second; });
    return shares;
  }

 private:
  [[nodiscard]] double of_step(int64_t ns) const {
    return static_cast<double>(ns) / static_cast<double>(busy_.timed_ns) * (1 - between());
  }

  const BusySnapshot& busy_;
};

/// Per second of the kind's time.
std::optional<double> rate(double amount, int64_t ns) {
  if (ns <= 0 || amount <= 0) return std::nullopt;
  return amount / (static_cast<double>(ns) * 1e-9);
}

std::optional<double> flops_rate(const BusySnapshot& busy, TimeKind kind) {
  return rate(busy.kind(kind).flops, busy.kind(kind).ns);
}

std::optional<double> bytes_rate(const BusySnapshot& busy, TimeKind kind) {
  return rate(busy.kind(kind).bytes, busy.kind(kind).ns);
}

void add_rate(Json& json, const std::string& name, const char* unit, std::optional<double> rate,
              double ceiling) {
  json.set(name + "_" + unit + "_per_s", rate.has_value() ? Json(*rate) : Json());
  json.set(name + "_percent_of_" + unit + "_ceiling",
           rate.has_value() ? Json(100 * *rate / ceiling) : Json());
}

/// "612.3 TFLOP/s = 92.1 % of the ceiling", in T or G.
std::string rate_text(double rate, const char* unit, double ceiling) {
  const bool is_tera = ceiling >= 1e12;
  return fmt::format("{:.{}f} {}{} = {:.1f} % of the ceiling", rate * (is_tera ? 1e-12 : 1e-9),
                     is_tera ? 2 : 1, is_tera ? "T" : "G", unit, 100 * rate / ceiling);
}

std::string shares_text(const Shares& shares) {
  const auto percent = [&](TimeKind kind) { return 100 * shares.kind(kind); };
  std::string text = fmt::format(
      "GEMM {:.1f} %, decode attention {:.1f} %, prefill attention "
      "{:.1f} %, ",
      percent(TimeKind::kGemm), percent(TimeKind::kAttentionDecode),
      percent(TimeKind::kAttentionPrefill));
  if (percent(TimeKind::kNetwork) > 0)
    text += fmt::format("network {:.1f} %, ", percent(TimeKind::kNetwork));
  return text + fmt::format("other {:.1f} %, gaps {:.1f} %", percent(TimeKind::kOther),
                            100 * (shares.inside() + shares.between()));
}

}  // namespace

Json step_times_json(const BusySnapshot& busy, const Ceilings& ceilings) {
  if (busy.timed_ns <= 0) return {};
  const Shares shares(busy);
  Json json = Json::object();
  for (size_t k = 0; k < kNumTimeKinds; ++k) {
    const auto kind = static_cast<TimeKind>(k);
    json.set(std::string(time_kind_name(kind)), shares.kind(kind));
  }
  json.set("gaps", shares.inside() + shares.between());
  json.set("gaps_inside_steps", shares.inside());
  json.set("gaps_between_steps", shares.between());
  json.set("overlap", shares.overlap());
  Json ops = Json::object();
  for (const auto& [op, value] : shares.ops()) ops.set(op, value);
  json.set("ops", std::move(ops));
  add_rate(json, "gemm", "flops", flops_rate(busy, TimeKind::kGemm), ceilings.gemm_flops);
  add_rate(json, "gemm", "bytes", bytes_rate(busy, TimeKind::kGemm), ceilings.read_bytes_per_s);
  add_rate(json, "attention_decode", "bytes", bytes_rate(busy, TimeKind::kAttentionDecode),
           ceilings.read_bytes_per_s);
  add_rate(json, "attention_prefill", "flops", flops_rate(busy, TimeKind::kAttentionPrefill),
           ceilings.gemm_flops);
  json.set("mean_step_ms", static_cast<double>(busy.step_ns) * 1e-6 /
                               static_cast<double>(std::max<int64_t>(1, busy.steps)));
  json.set("timed_steps", busy.timed_steps);
  const std::optional<double> cost = busy.timing_cost();
  json.set("timing_cost", cost.has_value() ? Json(*cost) : Json());
  return json;
}

std::vector<std::pair<std::string, std::string>> step_times_lines(const BusySnapshot& busy,
                                                                  const Ceilings& ceilings) {
  if (busy.timed_ns <= 0) return {{"step time", "n/a (no step's operations were timed)"}};
  const Shares shares(busy);
  std::vector<std::pair<std::string, std::string>> lines = {{"step time", shares_text(shares)}};
  lines.emplace_back("gaps", fmt::format("{:.1f} % inside steps, {:.1f} % between them",
                                         100 * shares.inside(), 100 * shares.between()));
  if (const auto r = flops_rate(busy, TimeKind::kGemm))
    lines.emplace_back("GEMM", rate_text(*r, "FLOP/s", ceilings.gemm_flops));
  if (const auto r = bytes_rate(busy, TimeKind::kAttentionDecode))
    lines.emplace_back("decode attention", "KV " + rate_text(*r, "B/s", ceilings.read_bytes_per_s));
  if (const auto r = flops_rate(busy, TimeKind::kAttentionPrefill))
    lines.emplace_back("prefill attention", rate_text(*r, "FLOP/s", ceilings.gemm_flops));
  lines.emplace_back("overlap", fmt::format("{:.1f} % of the time two lanes or more ran an op",
                                            100 * shares.overlap()));
  std::string ops;
  for (const auto& [op, value] : shares.ops())
    if (value >= 0.005)
      ops += fmt::format("{}{} {:.1f} %", ops.empty() ? "" : ", ", op, 100 * value);
  lines.emplace_back("ops", ops);
  std::string timed = fmt::format("{} of {} steps", busy.timed_steps, busy.steps);
  if (const auto cost = busy.timing_cost())
    timed += fmt::format(", each {:.1f} % longer for it", 100 * *cost);
  lines.emplace_back("timed", timed);
  return lines;
}

}  // namespace nanoflow
