#include "client/load_result.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include "api/serving_stats.h"

namespace nanoflow {
namespace {

struct Metric {
  std::string_view key;
  std::string_view name;  ///< in lines of the block
  std::string_view title;
};

constexpr Metric kMetrics[] = {
    {"ttft", "TTFT", "Time to First Token"},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
    {"itl", "ITL", "Inter-token Latency"},
    {"e2el", "E2EL", "End-to-end Latency"},
};

std::optional<double> value_ms(const RequestRecord& record, std::string_view key) {
  if (key == "ttft") return record.ttft_s * 1e3;
  if (key == "e2el") return record.latency_s * 1e3;
  const std::optional<double> tpot = record.tpot_s();
  return tpot.has_value() ? std::optional(*tpot * 1e3) : std::nullopt;
}

std::vector<double> sorted_ms(const LoadResult& result, std::string_view key) {
  std::vector<double> values;
  for (const RequestRecord& record : result.records) {
    if (!record.is_completed()) continue;
    if (key == "itl") {
      for (const float gap : record.itls_s) values.push_back(static_cast<double>(gap) * 1e3);
    } else if (const std::optional<double> value = value_ms(record, key)) {
      values.push_back(*value);
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}

struct Summary {
  double mean = 0, median = 0, deviation = 0;
};

Summary summarise(const std::vector<double>& sorted) {
  Summary s;
  if (sorted.empty()) return s;
  const auto n = static_cast<double>(sorted.size());
  for (const double value : sorted) s.mean += value / n;
  for (const double value : sorted) s.deviation += (value - s.mean) * (value - s.mean) / n;
  s.deviation = std::sqrt(s.deviation);
  s.median = percentile(sorted, 0.5);
  return s;
}

struct Totals {
  int64_t completed = 0, failed = 0, input = 0, output = 0, good = 0;
};

bool is_good(const RequestRecord& record, const ReportOptions& options) {
  return std::all_of(options.goodput_ms.begin(), options.goodput_ms.end(), [&](const auto& limit) {
    return value_ms(record, limit.first).value_or(0) <= limit.second;
  });
}

Totals add_up(const LoadResult& result, const ReportOptions& options) {
  Totals totals;
  for (const RequestRecord& record : result.records) {
    if (!record.is_finished) continue;
    if (!record.is_completed()) {
      ++totals.failed;
      continue;
    }
    ++totals.completed;
    totals.input += record.prompt_tokens;
    totals.output += record.outputs();
    totals.good += is_good(record, options) ? 1 : 0;
  }
  return totals;
}

int64_t peak_chunks(const LoadResult& result) {
  const auto& counts = result.chunks_per_s;
  return counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
}

bool is_wanted(const ReportOptions& options, std::string_view key) {
  return std::find(options.metrics.begin(), options.metrics.end(), key) != options.metrics.end();
}

/// "99", "99.9"
std::string percent_name(double percent) {
  return fmt::format("{:g}", percent);
}

void add_line(std::string& out, const std::string& name, double value) {
  out += fmt::format("{:<40} {:<10.2f}\n", name, value);
}

void add_line(std::string& out, const std::string& name, int64_t value) {
  out += fmt::format("{:<40} {:<10}\n", name, value);
}

}  // namespace

std::optional<double> RequestRecord::tpot_s() const {
  if (outputs() < 2) return std::nullopt;
  return (latency_s - ttft_s) / static_cast<double>(outputs() - 1);
}

std::string result_block(const LoadResult& result, const ReportOptions& options) {
  const Totals totals = add_up(result, options);
  const double seconds = std::max(result.duration_s, 1e-9);
  const auto per_s = [&](int64_t count) { return static_cast<double>(count) / seconds; };
  std::string out = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  add_line(out, "Successful requests:", totals.completed);
  add_line(out, "Failed requests:", totals.failed);
  if (options.max_concurrency > 0)
    add_line(out, "Maximum request concurrency:", options.max_concurrency);
  if (std::isfinite(options.request_rate))
    add_line(out, "Request rate configured (RPS):", options.request_rate);
  add_line(out, "Benchmark duration (s):", result.duration_s);
  add_line(out, "Total input tokens:", totals.input);
  add_line(out, "Total generated tokens:", totals.output);
  add_line(out, "Request throughput (req/s):", per_s(totals.completed));
  if (!options.goodput_ms.empty()) add_line(out, "Request goodput (req/s):", per_s(totals.good));
  add_line(out, "Output token throughput (tok/s):", per_s(totals.output));
  add_line(out, "Peak output token throughput (tok/s):", static_cast<double>(peak_chunks(result)));
  add_line(out, "Peak concurrent requests:", result.peak_concurrency);
  add_line(out, "Total token throughput (tok/s):", per_s(totals.input + totals.output));
  for (const Metric& metric : kMetrics) {
    if (!is_wanted(options, metric.key)) continue;
    const std::vector<double> values = sorted_ms(result, metric.key);
    const Summary summary = summarise(values);
    out += fmt::format("{:-^50}\n", metric.title);
    add_line(out, fmt::format("Mean {} (ms):", metric.name), summary.mean);
    add_line(out, fmt::format("Median {} (ms):", metric.name), summary.median);
    for (const double percent : options.percentiles)
      add_line(out, fmt::format("P{} {} (ms):", percent_name(percent), metric.name),
               percentile(values, percent / 100));
  }
  return out + fmt::format("{:=^50}\n", "");
}

Json result_json(const LoadResult& result, const ReportOptions& options, bool detailed) {
  const Totals totals = add_up(result, options);
  const double seconds = std::max(result.duration_s, 1e-9);
  const auto per_s = [&](int64_t count) { return static_cast<double>(count) / seconds; };
  Json json = Json::object(
      {{"duration", result.duration_s},
       {"completed", totals.completed},
       {"failed", totals.failed},
       {"total_input_tokens", totals.input},
       {"total_output_tokens", totals.output},
       {"request_throughput", per_s(totals.completed)},
       {"request_goodput", options.goodput_ms.empty() ? Json() : Json(per_s(totals.good))},
       {"output_throughput", per_s(totals.output)},
       {"total_token_throughput", per_s(totals.input + totals.output)},
       {"max_output_tokens_per_s", static_cast<double>(peak_chunks(result))},
       {"max_concurrent_requests", result.peak_concurrency}});
  for (const Metric& metric : kMetrics) {
    if (!is_wanted(options, metric.key)) continue;
    const std::vector<double> values = sorted_ms(result, metric.key);
    const Summary summary = summarise(values);
    json.set(fmt::format("mean_{}_ms", metric.key), summary.mean);
    json.set(fmt::format("median_{}_ms", metric.key), summary.median);
    json.set(fmt::format("std_{}_ms", metric.key), summary.deviation);
    for (const double percent : options.percentiles)
      json.set(fmt::format("p{}_{}_ms", percent_name(percent), metric.key),
               percentile(values, percent / 100));
  }
  if (!detailed) return json;
  Json input_lens{Json::Array{}}, output_lens{Json::Array{}}, start_times{Json::Array{}};
  Json ttfts{Json::Array{}}, itls{Json::Array{}}, errors{Json::Array{}};
  for (const RequestRecord& record : result.records) {
    if (!record.is_finished) continue;
    input_lens.push_back(record.prompt_tokens);
    output_lens.push_back(record.is_completed() ? record.outputs() : 0);
    start_times.push_back(record.start_s);
    ttfts.push_back(record.ttft_s);
    Json gaps{Json::Array{}};
    for (const float gap : record.itls_s) gaps.push_back(static_cast<double>(gap));
    itls.push_back(std::move(gaps));
    errors.push_back(record.error);
  }
  json.set("input_lens", std::move(input_lens));
  json.set("output_lens", std::move(output_lens));
  json.set("start_times", std::move(start_times));
  json.set("ttfts", std::move(ttfts));
  json.set("itls", std::move(itls));
  json.set("errors", std::move(errors));
  return json;
}

}  // namespace nanoflow
