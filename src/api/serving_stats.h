// Latencies and rates of a run, as serving benchmarks of the field report them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/request.h"

namespace nanoflow {

/// Mean and percentiles of a sample; zeros when it is empty.
struct Distribution {
  double mean = 0;
  double p50 = 0;
  double p99 = 0;
  [[nodiscard]] static Distribution of(std::vector<double> values);
  /// {"mean", "p50", "p99"}, values multiplied by `scale`.
  [[nodiscard]] Json to_json(double scale = 1) const;
};

/// Linear interpolation between closest ranks (numpy's default); 0 when empty. p in [0, 1].
double percentile(const std::vector<double>& sorted, double p);

/// Collects finished requests of one run.
class ServingStats {
 public:
  /// One finished request, tokens as its usage says.
  void add_request(int64_t prompt_tokens, int64_t output_tokens);
  /// One of its sequences (a request with n or several prompts has more than one): TTFT = first
  /// token - submission; TPOT = (end - first token) / (tokens - 1), for two tokens and more.
  void add_latency(const RequestTimes& times, int64_t output_tokens);
  /// A request of one sequence.
  void add(const RequestTimes& times, int64_t prompt_tokens, int64_t output_tokens);
  void add_failure() { ++failed_; }

  [[nodiscard]] int64_t requests() const { return requests_; }
  [[nodiscard]] int64_t failed() const { return failed_; }
  [[nodiscard]] int64_t prompt_tokens() const { return prompt_tokens_; }
  [[nodiscard]] int64_t output_tokens() const { return output_tokens_; }
  [[nodiscard]] Distribution ttft_s() const { return Distribution::of(ttft_s_); }
  [[nodiscard]] Distribution tpot_s() const { return Distribution::of(tpot_s_); }

  /// The table that ends a run. `elapsed_s` is the run's wall time.
  [[nodiscard]] std::string table(double elapsed_s) const;
  [[nodiscard]] Json to_json(double elapsed_s) const;

 private:
  int64_t requests_ = 0;
  int64_t failed_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t output_tokens_ = 0;
  std::vector<double> ttft_s_;
  std::vector<double> tpot_s_;
};

/// This process's largest resident memory so far, in bytes; 0 when the system does not say.
int64_t peak_memory_bytes();

}  // namespace nanoflow
