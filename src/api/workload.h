// Synthetic workloads for benchmarks: how long prompts and outputs are, when requests arrive, which
// random tokens they carry. The same options and seed give the same workload on any machine.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace nanoflow {

struct WorkloadOptions {
  int64_t num_requests = 0;  ///< 0: every row of the trace, else 1000
  int64_t input_len = 512;
  int64_t output_len = 512;
  double range_ratio = 0;       ///< lengths uniform in [len * (1 - ratio), len * (1 + ratio)]
  std::filesystem::path trace;  ///< CSV of lengths; replaces input_len and output_len
  bool trace_in_order = false;  ///< rows as they are, from the first; else drawn with the seed
  double request_rate = 0;      ///< mean requests per second of a Poisson process; 0: all at once
  uint64_t seed = 0;

  /// What a report needs to be repeated; lengths are null where a trace replaces them.
  [[nodiscard]] Json to_json() const;
};

struct WorkItem {
  int64_t input_len = 0;
  int64_t output_len = 0;
  double arrival_s = 0;  ///< after the start
  uint64_t prompt_seed = 0;
};

/// Reads a CSV whose header names (input_len, output_len) or (ContextTokens, GeneratedTokens).
/// Throws IoError, or FormatError naming the line.
std::vector<std::pair<int64_t, int64_t>> read_length_trace(const std::filesystem::path& path);

/// More requests than any run of hours; their list stays below a hundred megabytes.
inline constexpr int64_t kMaxWorkloadRequests = 1'000'000;

/// Draws the workload. Rows that do not fit into `max_model_len` tokens are left out (all of them
/// left out: ConfigError). Throws ConfigError naming the option when constant lengths do not fit,
/// or a value is outside what makes sense.
std::vector<WorkItem> make_workload(const WorkloadOptions& options, int64_t max_model_len);

/// `item.input_len` random token ids in [0, vocab_size), avoiding `forbidden` (end-of-sequence
/// ids).
std::vector<int32_t> random_prompt(const WorkItem& item, int64_t vocab_size,
                                   const std::vector<int32_t>& forbidden);

}  // namespace nanoflow
