// What a load test measured, request by request, and what follows from it, in the terms, the layout
// and the JSON keys of vLLM's serving benchmark.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace nanoflow {

/// One request. Failed: `error` is not empty.
struct RequestRecord {
  bool is_finished = false;    ///< false: the run was interrupted before its end
  double start_s = 0;          ///< after the run's start
  double ttft_s = 0;           ///< from sending to the first chunk with choices
  double latency_s = 0;        ///< from sending to the last chunk with choices
  std::vector<float> itls_s;   ///< gaps between chunks
  int64_t prompt_tokens = 0;   ///< the server's count, else the client's
  int64_t output_tokens = -1;  ///< the server's count; -1: chunks are counted
  int http_status = 0;         ///< of the answer; 0: none came
  std::string error;

  [[nodiscard]] bool is_completed() const { return is_finished && error.empty(); }
  [[nodiscard]] int64_t outputs() const {
    return output_tokens >= 0 ? output_tokens : static_cast<int64_t>(itls_s.size()) + 1;
  }
  /// Seconds per output token after the first; unset with fewer than two tokens.
  [[nodiscard]] std::optional<double> tpot_s() const;
};

struct LoadResult {
  std::vector<RequestRecord> records;
  double duration_s = 0;
  int64_t peak_concurrency = 0;
  std::vector<int64_t> chunks_per_s;  ///< that arrived in each second of the run
};

struct ReportOptions {
  std::vector<std::string> metrics = {"ttft", "tpot", "itl"};  ///< of these and "e2el"
  std::vector<double> percentiles = {99};
  std::vector<std::pair<std::string, double>> goodput_ms;  ///< limits of ttft, tpot, e2el
  double request_rate = 0;                                 ///< infinite: all at once
  int64_t max_concurrency = 0;                             ///< 0: no limit
};

/// The block that ends a benchmark, ready to print.
[[nodiscard]] std::string result_block(const LoadResult& result, const ReportOptions& options);

/// The same figures under the keys of vLLM's result file; `detailed` adds each request's.
[[nodiscard]] Json result_json(const LoadResult& result, const ReportOptions& options,
                               bool detailed);

}  // namespace nanoflow
