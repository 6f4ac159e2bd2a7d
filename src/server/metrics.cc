#include "server/metrics.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

namespace nanoflow {
namespace {

// vLLM's bucket lists, seconds and tokens: panels that compare the two need the same.
constexpr double kTtft[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                            1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
constexpr double kInterToken[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                  0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5,
                                  5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
constexpr double kRequest[] = {0.3,  0.5,   0.8,   1.0,   1.5,   2.0,    2.5,
                               5.0,  10.0,  15.0,  20.0,  30.0,  40.0,   50.0,
                               60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
constexpr double kTokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                              1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
constexpr double kChoices[] = {1, 2, 5, 10, 20};

std::string escaped(std::string_view label) {
  std::string out;
  for (const char c : label) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

class Text {
 public:
  explicit Text(std::string_view labels) : labels_(labels) {}

  void begin(std::string_view name, std::string_view type, std::string_view help) {
    fmt::format_to(std::back_inserter(out_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                   type);
  }
  void sample(std::string_view name, double value, std::string_view more_labels = {}) {
    fmt::format_to(std::back_inserter(out_), "{}{{{}{}{}}} {}\n", name, labels_,
                   more_labels.empty() ? "" : ",", more_labels, value);
  }
  void gauge(std::string_view name, std::string_view help, double value) {
    begin(name, "gauge", help);
    sample(name, value);
  }
  void counter(const std::string& name, std::string_view help, double value) {
    begin(name, "counter", help);
    sample(name, value);
  }
  void histogram(std::string_view name, std::string_view help, const Histogram& histogram) {
    begin(name, "histogram", help);
    histogram.write(out_, name, labels_);
  }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  std::string_view labels_;
  std::string out_;
};

double number(int64_t value) {
  return static_cast<double>(value);
}

double seconds(int64_t ns) {
  return static_cast<double>(ns) * 1e-9;
}

void write_engine(Text& text, const EngineStats& stats, const EngineLimits& limits) {
  text.gauge("vllm:num_requests_running", "Requests in the running batch", number(stats.running));
  text.gauge("vllm:num_requests_waiting", "Requests that wait to be scheduled",
             number(stats.waiting));
  text.gauge(
      "vllm:kv_cache_usage_perc", "Share of the KV cache's pages in use, 0 to 1",
      stats.kv_pages_total == 0 ? 0 : number(stats.kv_pages_used) / number(stats.kv_pages_total));
  text.begin("vllm:cache_config_info", "gauge", "The KV cache's size");
  text.sample("vllm:cache_config_info", 1,
              fmt::format("block_size=\"{}\",num_gpu_blocks=\"{}\",enable_prefix_caching=\"False\"",
                          limits.page_size, limits.num_pages));
  text.counter("vllm:prompt_tokens_total", "Prompt rows computed, recomputed ones included",
               number(stats.prompt_tokens));
  text.counter("vllm:generation_tokens_total", "Tokens given to clients",
               number(stats.output_tokens));
  text.counter("vllm:num_preemptions_total", "Sequences that lost their pages to others",
               number(stats.preemptions));
  text.counter("nanoflow:recomputed_rows_total", "Rows that preemptions threw away",
               number(stats.recomputed_rows));
  text.counter("nanoflow:wasted_rows_total", "Rows of sequences that had ended one step before",
               number(stats.wasted_rows));
  text.counter("nanoflow:steps_total", "Steps computed", number(stats.steps));
  text.gauge("nanoflow:step_rows", "Rows of the last step", number(stats.step_rows));
  text.gauge("nanoflow:step_decode_rows", "Of them, decodes", number(stats.step_decode_rows));
  text.begin("nanoflow:engine_seconds_total", "counter", "Where the engine thread's time went");
  for (const auto& [part, ns] : {std::pair<const char*, int64_t>{"schedule", stats.schedule_ns},
                                 {"launch", stats.launch_ns},
                                 {"wait", stats.wait_ns},
                                 {"commit", stats.commit_ns},
                                 {"idle", stats.idle_ns}})
    text.sample("nanoflow:engine_seconds_total", seconds(ns), fmt::format("part=\"{}\"", part));
}

void write_extras(Text& text, const MetricsExtras& extras) {
  text.gauge("nanoflow:http_connections", "Open connections", number(extras.http.open));
  text.counter("nanoflow:http_connections_accepted_total", "Connections accepted",
               number(extras.http.accepted));
  text.counter("nanoflow:http_connections_refused_total", "Connections beyond the limit",
               number(extras.http.refused));
  text.counter("nanoflow:http_malformed_total", "Requests that were no proper HTTP, or too slow",
               number(extras.http.malformed));
  text.counter("nanoflow:http_cut_off_total", "Clients that read too slowly",
               number(extras.http.cut_off));
  if (extras.model_flops.has_value())
    text.counter("nanoflow:model_flops_total",
                 "FLOPs of the model's weights for all tokens; MFU is its rate over peak_flops",
                 *extras.model_flops);
  if (extras.peak_flops.has_value())
    text.gauge("nanoflow:peak_flops", "Dense FLOPs per second by the devices' datasheet",
               *extras.peak_flops);
  if (extras.energy_joules.has_value())
    text.counter("nanoflow:energy_joules_total", "Energy that the device has taken",
                 *extras.energy_joules);
  if (extras.kind_seconds.empty()) return;
  text.begin("nanoflow:step_seconds_total", "counter",
             "Device time of the timed steps by kind of operation, summed over lanes");
  for (const auto& [kind, value] : extras.kind_seconds)
    text.sample("nanoflow:step_seconds_total", value, fmt::format("kind=\"{}\"", kind));
}

}  // namespace

Histogram::Histogram(std::span<const double> bounds)
    : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}

void Histogram::add(double value, int64_t count) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)].fetch_add(count, std::memory_order_relaxed);
  sum_.fetch_add(value * static_cast<double>(count), std::memory_order_relaxed);
}

void Histogram::write(std::string& out, std::string_view name, std::string_view labels) const {
  int64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound,
                   total);
  }
  fmt::format_to(std::back_inserter(out), "{}_sum{{{}}} {}\n{}_count{{{}}} {}\n", name, labels,
                 sum_.load(std::memory_order_relaxed), name, labels, total);
}

ServerMetrics::ServerMetrics(const std::string& model_name)
    : labels_(fmt::format("model_name=\"{}\",engine=\"0\"", escaped(model_name))),
      ttft_(kTtft),
      inter_token_(kInterToken),
      per_output_token_(kInterToken),
      e2e_(kRequest),
      queue_(kRequest),
      inference_(kRequest),
      prefill_(kRequest),
      decode_(kRequest),
      prompt_tokens_(kTokens),
      output_tokens_(kTokens),
      max_tokens_(kTokens),
      n_(kChoices),
      preemptions_(kChoices) {}

void ServerMetrics::inter_token(double seconds_between, int64_t count) {
  inter_token_.add(seconds_between / static_cast<double>(count), count);
}

void ServerMetrics::request_finished(const RequestRecord& r) {
  const auto reason = std::find(kReasons.begin(), kReasons.end(), r.finished_reason);
  if (reason != kReasons.end())
    finished_[static_cast<size_t>(reason - kReasons.begin())].fetch_add(1);
  e2e_.add(r.e2e_s);
  queue_.add(r.queue_s);
  inference_.add(r.inference_s);
  prefill_.add(r.prefill_s);
  decode_.add(r.decode_s);
  if (r.output_tokens > 1)
    per_output_token_.add(r.decode_s / static_cast<double>(r.output_tokens - 1));
  prompt_tokens_.add(number(r.prompt_tokens));
  output_tokens_.add(number(r.output_tokens));
  if (r.max_tokens > 0) max_tokens_.add(number(r.max_tokens));
  n_.add(number(r.n));
  preemptions_.add(number(r.preemptions));
}

void ServerMetrics::http_answer(int status) {
  const std::lock_guard lock(mutex_);
  ++answers_[status];
}

std::string ServerMetrics::prometheus(const EngineStats& stats, const EngineLimits& limits,
                                      const MetricsExtras& extras) const {
  Text text(labels_);
  write_engine(text, stats, limits);
  text.begin("vllm:request_success_total", "counter", "Finished requests by why they ended");
  for (size_t i = 0; i < kReasons.size(); ++i)
    text.sample("vllm:request_success_total", number(finished_[i]),
                fmt::format("finished_reason=\"{}\"", kReasons[i]));
  const auto histogram = [&](const char* name, const char* help, const Histogram& values) {
    text.histogram(name, help, values);
  };
  histogram("vllm:time_to_first_token_seconds", "Arrival to first token", ttft_);
  histogram("vllm:inter_token_latency_seconds", "Between tokens of a request", inter_token_);
  histogram("vllm:request_time_per_output_token_seconds", "Mean time per token behind the first",
            per_output_token_);
  histogram("vllm:e2e_request_latency_seconds", "Arrival to last token", e2e_);
  histogram("vllm:request_queue_time_seconds", "Waiting to be scheduled", queue_);
  histogram("vllm:request_inference_time_seconds", "Scheduled to last token", inference_);
  histogram("vllm:request_prefill_time_seconds", "Scheduled to first token", prefill_);
  histogram("vllm:request_decode_time_seconds", "First token to last", decode_);
  histogram("vllm:request_prompt_tokens", "Prompt tokens of a request", prompt_tokens_);
  histogram("vllm:request_generation_tokens", "Output tokens of a request", output_tokens_);
  histogram("vllm:request_params_max_tokens", "max_tokens of requests that set it", max_tokens_);
  histogram("vllm:request_params_n", "n of a request", n_);
  histogram("vllm:request_num_preemptions", "Preemptions of a request", preemptions_);
  text.begin("http_requests_total", "counter", "Answers by HTTP status");
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [status, count] : answers_)
      text.sample("http_requests_total", number(count), fmt::format("status=\"{}\"", status));
  }
  write_extras(text, extras);
  return text.take();
}

}  // namespace nanoflow
