#include "server/log_line.h"

#include <fmt/format.h>

namespace nanoflow {

std::string activity_line(const EngineStats& before, const EngineStats& now, double seconds) {
  const auto rate = [&](int64_t a, int64_t b) { return static_cast<double>(b - a) / seconds; };
  const int64_t steps = now.steps - before.steps;
  if (steps == 0 && now.running == 0 && now.waiting == 0) return {};
  const double used = now.kv_pages_total == 0 ? 0
                                              : static_cast<double>(now.kv_pages_used) /
                                                    static_cast<double>(now.kv_pages_total);
  // The device is busy while the engine's thread waits for it, launches or works beside it.
  const double idle = static_cast<double>(now.idle_ns - before.idle_ns) * 1e-9 / seconds;
  std::string line = fmt::format(
      "prompt {:.1f} tok/s, generation {:.1f} tok/s, running {}, waiting {}, KV cache {:.1f} %, "
      "{} steps, engine idle {:.0f} %",
      rate(before.prompt_tokens, now.prompt_tokens), rate(before.output_tokens, now.output_tokens),
      now.running, now.waiting, 100 * used, steps, 100 * idle);
  if (now.preemptions > before.preemptions)
    line += fmt::format(", {} preemptions", now.preemptions - before.preemptions);
  return line;
}

}  // namespace nanoflow
