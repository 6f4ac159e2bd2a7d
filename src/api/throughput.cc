#include "api/throughput.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace nanoflow {
namespace {

Request make_request(const WorkItem& item, RequestId id, const EngineLimits& limits) {
  Request request{.id = id, .prompt = random_prompt(item, limits.vocab_size, limits.eos_token_ids)};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = item.output_len;
  request.sampling.ignore_eos = true;
  return request;
}

/// Decode attention of output token k reads input_len + k positions; the first token comes from
/// prefill.
int64_t kv_reads(const WorkItem& item) {
  const int64_t decodes = item.output_len - 1;
  return decodes * item.input_len + decodes * (decodes + 1) / 2;
}

class Run {
 public:
  Run(Engine& engine, const std::vector<WorkItem>& workload, const Clock& clock)
      : engine_(engine), workload_(workload), clock_(clock), before_(engine.stats()) {}

  ThroughputResult operator()(const std::atomic<bool>& interrupted,
                              const std::function<void(int64_t)>& progress) {
    using namespace std::chrono_literals;
    start_s_ = clock_.now_s();
    while (finished_ < static_cast<int64_t>(workload_.size()) && !interrupted.load()) {
      submit_due();
      for (const TokenEvent& event : events_->pop_all(2ms)) on_event(event);
      if (!engine_.healthy()) throw EnvironmentError("the engine failed: " + engine_.failure());
      progress(finished_);
      sample(false);
    }
    sample(true);
    finish(interrupted.load());
    return std::move(result_);
  }

 private:
  void submit_due() {
    const double now_s = clock_.now_s() - start_s_;
    while (next_ < workload_.size() && workload_[next_].arrival_s <= now_s) {
      const Result<RequestHandle> handle =
          engine_.submit(make_request(workload_[next_], next_ + 1, engine_.limits()), events_);
      if (!handle.has_value()) {
        if (handle.error().code == ErrorCode::kResourceExhausted) return;
        throw ConfigError("workload", handle.error().message);
      }
      ++next_;
    }
  }

  void on_event(const TokenEvent& event) {
    output_tokens_ += static_cast<int64_t>(event.tokens.size());
    if (!event.finish.has_value()) return;
    ++finished_;
    if (*event.finish == FinishReason::kError) return result_.serving.add_failure();
    const WorkItem& item = workload_[event.request_id - 1];
    result_.serving.add(event.times, item.input_len, event.output_tokens);
    result_.kv_tokens_read += kv_reads(item);
  }

  /// Rows that a preemption threw away no longer count; until they are back, nothing does.
  void sample(bool last) {
    constexpr double kInterval = 0.05;
    const double now_s = clock_.now_s() - start_s_;
    if (!last && !samples_.empty() && now_s - samples_.back().time_s < kInterval) return;
    const EngineStats now = engine_.stats();
    const int64_t prompt_rows = (now.prompt_tokens - before_.prompt_tokens) -
                                (now.recomputed_rows - before_.recomputed_rows);
    const int64_t reached = samples_.empty() ? 0 : samples_.back().tokens;
    samples_.push_back({now_s, std::max(reached, prompt_rows + output_tokens_)});
  }

  void finish(bool was_interrupted) {
    const EngineStats after = engine_.stats();
    result_.elapsed_s = clock_.now_s() - start_s_;
    std::tie(result_.steady_tok_per_s, result_.steady_s) = steady_rate(samples_);
    result_.sampled_tokens = samples_.back().tokens;
    result_.steps = after.steps - before_.steps;
    result_.preemptions = after.preemptions - before_.preemptions;
    result_.wasted_rows = after.wasted_rows - before_.wasted_rows;
    result_.recomputed_tokens = after.recomputed_rows - before_.recomputed_rows;
    result_.requests_cut_off = static_cast<int64_t>(workload_.size()) - finished_;
    for (RequestId id = 1; was_interrupted && id <= next_; ++id) engine_.cancel(id);
  }

  Engine& engine_;
  const std::vector<WorkItem>& workload_;
  const Clock& clock_;
  const EngineStats before_;
  const std::shared_ptr<EventQueue> events_ =
      std::make_shared<EventQueue>();  // shared with the engine
  double start_s_ = 0;
  size_t next_ = 0;
  int64_t finished_ = 0;
  int64_t output_tokens_ = 0;
  std::vector<ThroughputSample> samples_;
  ThroughputResult result_;
};

}  // namespace

std::pair<double, double> steady_rate(const std::vector<ThroughputSample>& samples) {
  if (samples.size() < 3) return {0, 0};
  const int64_t total = samples.back().tokens;
  const auto at = [&](int64_t tokens) {
    return *std::find_if(samples.begin(), samples.end(),
                         [&](const ThroughputSample& s) { return s.tokens >= tokens; });
  };
  const ThroughputSample from = at(total / 4);
  const ThroughputSample to = at(total - total / 4);
  const double seconds = to.time_s - from.time_s;
  if (seconds <= 0) return {0, 0};
  return {static_cast<double>(to.tokens - from.tokens) / seconds, seconds};
}

ThroughputResult run_throughput(Engine& engine, const std::vector<WorkItem>& workload,
                                const Clock& clock, const std::atomic<bool>& interrupted,
                                const std::function<void(int64_t finished)>& progress) {
  return Run(engine, workload, clock)(interrupted, progress);
}

}  // namespace nanoflow
