#include "api/serving_stats.h"

#include <sys/resource.h>
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

namespace nanoflow {

double percentile(const std::vector<double>& sorted, double p) {
  if (sorted.empty()) return 0;
  const double position = p * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(std::floor(position));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - std::floor(position));
}

Distribution Distribution::of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {sum / static_cast<double>(values.size()), percentile(values, 0.5),
          percentile(values, 0.99)};
}

Json Distribution::to_json(double scale) const {
  return Json::object({{"mean", mean * scale}, {"p50", p50 * scale}, {"p99", p99 * scale}});
}

void ServingStats::add(const RequestTimes& times, int64_t prompt_tokens, int64_t output_tokens) {
  add_request(prompt_tokens, output_tokens);
  add_latency(times, output_tokens);
}

void ServingStats::add_request(int64_t prompt_tokens, int64_t output_tokens) {
  ++requests_;
  prompt_tokens_ += prompt_tokens;
  output_tokens_ += output_tokens;
}

void ServingStats::add_latency(const RequestTimes& times, int64_t output_tokens) {
  if (times.first_token_ns == 0) return;
  ttft_s_.push_back(static_cast<double>(times.first_token_ns - times.submitted_ns) * 1e-9);
  if (output_tokens < 2) return;
  tpot_s_.push_back(static_cast<double>(times.event_ns - times.first_token_ns) * 1e-9 /
                    static_cast<double>(output_tokens - 1));
}

std::string ServingStats::table(double elapsed_s) const {
  const auto rate = [&](int64_t tokens) { return static_cast<double>(tokens) / elapsed_s; };
  const Distribution ttft = ttft_s();
  const Distribution tpot = tpot_s();
  std::string out;
  const auto line = [&](std::string_view name, const std::string& value) {
    out += fmt::format("  {:<22}{}\n", name, value);
  };
  line("requests", failed_ == 0 ? fmt::format("{}", requests_)
                                : fmt::format("{} ({} failed)", requests_ + failed_, failed_));
  line("time", fmt::format("{:.2f} s", elapsed_s));
  line("prompt tokens", fmt::format("{}", prompt_tokens_));
  line("generated tokens", fmt::format("{}", output_tokens_));
  line("throughput", fmt::format("{:.1f} tok/s total, {:.1f} tok/s generated",
                                 rate(prompt_tokens_ + output_tokens_), rate(output_tokens_)));
  line("TTFT", fmt::format("mean {:.0f} ms, p50 {:.0f} ms, p99 {:.0f} ms", ttft.mean * 1e3,
                           ttft.p50 * 1e3, ttft.p99 * 1e3));
  line("TPOT", fmt::format("mean {:.1f} ms, p50 {:.1f} ms, p99 {:.1f} ms", tpot.mean * 1e3,
                           tpot.p50 * 1e3, tpot.p99 * 1e3));
  line("peak memory",
       fmt::format("{:.2f} GiB", static_cast<double>(peak_memory_bytes()) / (1 << 30)));
  return out;
}

Json ServingStats::to_json(double elapsed_s) const {
  const auto rate = [&](int64_t tokens) { return static_cast<double>(tokens) / elapsed_s; };
  return Json::object({{"requests", requests_},
                       {"failed", failed_},
                       {"elapsed_s", elapsed_s},
                       {"prompt_tokens", prompt_tokens_},
                       {"generated_tokens", output_tokens_},
                       {"total_tok_per_s", rate(prompt_tokens_ + output_tokens_)},
                       {"generated_tok_per_s", rate(output_tokens_)},
                       {"requests_per_s", rate(requests_)},
                       {"ttft_ms", ttft_s().to_json(1e3)},
                       {"tpot_ms", tpot_s().to_json(1e3)},
                       {"peak_memory_bytes", peak_memory_bytes()}});
}

int64_t peak_memory_bytes() {
  struct rusage usage {};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;  // Linux reports KiB
}

}  // namespace nanoflow
