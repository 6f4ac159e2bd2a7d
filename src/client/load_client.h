// The load client: thousands of streamed answers at a time on one thread. What to send is the
// caller's; what was measured is load_result.h's.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "client/load_result.h"
#include "client/target.h"

namespace nanoflow {

struct LoadRequest {
  std::string body;  ///< JSON that asks for a stream
  int64_t prompt_tokens = 0;
  double arrival_s = 0;  ///< after the start; not falling from one request to the next
};

struct LoadOptions {
  std::string path;             ///< of the endpoint
  int64_t max_concurrency = 0;  ///< requests in flight; those that would be more wait. 0: no limit
};

/// Sends all requests over kept-alive connections and waits for their answers, or until
/// `interrupted`. What goes wrong with a request is its record's error; nothing here ends the
/// others. `progress` gets the number of requests that have ended. Throws NetworkError when the
/// host's name cannot be resolved.
[[nodiscard]] LoadResult run_load(const LoadTarget& target,
                                  const std::vector<LoadRequest>& requests,
                                  const LoadOptions& options, const std::atomic<bool>& interrupted,
                                  const std::function<void(int64_t ended)>& progress);

struct PlainAnswer {
  int status = 0;
  std::string body;
};

/// GETs a path, within `timeout_s`. Throws NetworkError when no answer comes.
[[nodiscard]] PlainAnswer get(const LoadTarget& target, std::string_view path, double timeout_s);

}  // namespace nanoflow
