// What /metrics tells Prometheus: vLLM's names, so that dashboards and routers made for it work,
// and ours for what vLLM does not measure.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/http.h"

namespace nanoflow {

/// One finished engine request. Seconds; 0 where it did not come so far.
struct RequestRecord {
  double ttft_s = 0;       ///< from the request's arrival to its first token
  double queue_s = 0;      ///< waiting to be scheduled
  double prefill_s = 0;    ///< from then to the first token
  double decode_s = 0;     ///< from the first token to the last
  double inference_s = 0;  ///< scheduled to last token
  double e2e_s = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t n = 1;           ///< choices that were asked for
  int64_t max_tokens = 0;  ///< 0: none was set
  int64_t preemptions = 0;
  std::string finished_reason;  ///< stop, length, abort, error
};

/// What others than the engine and the server know at the time of a scrape.
struct MetricsExtras {
  HttpStats http;
  std::optional<double> model_flops;  ///< of all tokens so far
  std::optional<double> peak_flops;   ///< per second, by the datasheet, of all devices together
  /// Device time of the timed steps by kind of operation.
  std::vector<std::pair<std::string, double>> kind_seconds;
  std::optional<double> energy_joules;  ///< of the device, since start
};

/// Upper bounds of a histogram's buckets and their counts. Thread-safe, without locks.
class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds);
  void add(double value, int64_t count = 1);
  /// Appends its samples in Prometheus' text format; `labels` without braces.
  void write(std::string& out, std::string_view name, std::string_view labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;  // one more than bounds
  std::atomic<double> sum_{0};
};

class ServerMetrics {
 public:
  explicit ServerMetrics(const std::string& model_name);

  // Any thread.
  void request_finished(const RequestRecord& record);
  void first_token(double ttft_s) { ttft_.add(ttft_s); }
  /// `count` tokens came `seconds` after the ones before.
  void inter_token(double seconds, int64_t count = 1);
  void http_answer(int status);

  /// The whole text (Prometheus exposition format 0.0.4).
  [[nodiscard]] std::string prometheus(const EngineStats& stats, const EngineLimits& limits,
                                       const MetricsExtras& extras) const;

 private:
  static constexpr std::array<const char*, 4> kReasons = {"stop", "length", "abort", "error"};

  std::string labels_;
  Histogram ttft_, inter_token_, per_output_token_, e2e_, queue_, inference_, prefill_, decode_;
  Histogram prompt_tokens_, output_tokens_, max_tokens_, n_, preemptions_;
  std::array<std::atomic<int64_t>, kReasons.size()> finished_{};
  mutable std::mutex mutex_;        // guards answers_
  std::map<int, int64_t> answers_;  // by HTTP status
};

}  // namespace nanoflow
