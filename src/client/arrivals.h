// When the requests of a load test are sent.
#pragma once

#include <cstdint>
#include <vector>

namespace nanoflow {

/// Seconds after the start at which each of `count` requests is sent. Gaps are gamma distributed
/// with shape `burstiness` > 0 (1: a Poisson process, more: more even), then scaled so that the
/// last arrival is count / rate, as vLLM's benchmark does. `rate` in requests per second; infinite:
/// all at once.
[[nodiscard]] std::vector<double> arrival_times(int64_t count, double rate, double burstiness,
                                                uint64_t seed);

}  // namespace nanoflow
