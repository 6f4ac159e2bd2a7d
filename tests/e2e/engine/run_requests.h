// Requests of every kind for a whole engine, and what came out of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "engine/engine.h"

namespace nanoflow {

/// All that an engine said about one request.
struct Output {
  std::vector<int32_t> tokens;
  /// Per token: logprob, rank, then (token, logprob) of as many alternatives as were asked for.
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;  ///< the same per prompt token but the first
  std::optional<FinishReason> finish;
  bool operator==(const Output&) const = default;
};

/// Runs requests together, `at_once` at a time at most. An engine that says nothing for a minute
/// fails the test, and what came until then is returned.
std::map<RequestId, Output> run_requests(Engine& engine, const std::vector<Request>& requests,
                                         size_t at_once);

/// `count` requests with ids from 1, random prompts of 1 to `max_prompt` of `vocab` tokens and 1 to
/// `max_output` new ones: greedy and seeded sampling, with every parameter that travels to the
/// device. The same for the same arguments.
std::vector<Request> mixed_requests(int count, int64_t max_prompt, int64_t max_output,
                                    int64_t vocab);

}  // namespace nanoflow
