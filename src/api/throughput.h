// A throughput run: a synthetic workload through the engine, and what it says about speed. Ceilings
// that the report is set against are measured by the caller in the same process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "api/serving_stats.h"
#include "api/workload.h"
#include "base/clock.h"
#include "engine/engine.h"

namespace nanoflow {

/// Tokens processed (prompt rows computed once each, and output tokens) since the run's start.
struct ThroughputSample {
  double time_s = 0;
  int64_t tokens = 0;
};

struct ThroughputResult {
  ServingStats serving;
  double elapsed_s = 0;
  double steady_tok_per_s = 0;  ///< prompt + generated, over the middle half of all tokens
  double steady_s = 0;          ///< how long that middle half took
  int64_t sampled_tokens = 0;   ///< what it is the middle half of
  int64_t steps = 0;
  int64_t preemptions = 0;
  int64_t wasted_rows = 0;
  int64_t recomputed_tokens = 0;  ///< rows that preemptions threw away
  int64_t kv_tokens_read =
      0;  ///< sum over output tokens of their context: what decode attention reads
  int64_t requests_cut_off = 0;  ///< unfinished when the run was interrupted
};

/// Runs `workload` with random prompts, greedy, end-of-sequence ignored. Requests are submitted at
/// their arrival times, those that the queue has no room for as soon as it has. `progress` gets the
/// finished requests. Throws EnvironmentError when the engine fails.
ThroughputResult run_throughput(Engine& engine, const std::vector<WorkItem>& workload,
                                const Clock& clock, const std::atomic<bool>& interrupted,
                                const std::function<void(int64_t finished)>& progress);

/// Tokens per second between the samples at one and three quarters of all tokens; {0, 0} with fewer
/// than three samples. Exposed for tests.
std::pair<double, double> steady_rate(const std::vector<ThroughputSample>& samples);

}  // namespace nanoflow
