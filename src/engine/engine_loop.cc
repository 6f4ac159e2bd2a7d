#include "engine/engine_loop.h"

#include <exception>
#include <utility>

#include <fmt/format.h>

#include "base/abandoned.h"
#include "base/check.h"
#include "base/error.h"
#include "base/random.h"
#include "engine/request_check.h"

namespace nanoflow {

namespace {

/// Seed of a request that brings none.
uint64_t mix(uint64_t seed, uint64_t arrival) {
  return mix_bits(seed + (arrival + 1) * kGoldenGamma);
}

/// Runs `work` of a step; what it throws says which step.
template <typename Work>
auto naming(const StepBatch& batch, Work work) -> decltype(work()) {
  const auto named = [&](const std::exception& e) {
    return fmt::format("step {} ({} rows, {} of them decodes): {}", batch.index,
                       batch.header.num_rows, batch.header.num_decode_rows, e.what());
  };
  try {
    return work();
  } catch (const DeviceHang& e) {
    throw DeviceHang(named(e));
  } catch (const std::exception& e) {
    throw EnvironmentError(named(e));
  }
}

}  // namespace

EngineLoop::EngineLoop(const EngineConfig& config, const EngineLimits& limits,
                       std::unique_ptr<StepRunner> runner, const Clock& clock, Logger& logger)
    : config_(config),
      limits_(limits),
      clock_(clock),
      logger_(logger),
      runner_(std::move(runner)),
      scheduler_({.max_num_batched_tokens = config.max_num_batched_tokens,
                  .max_num_seqs = config.max_num_seqs,
                  .num_pages = limits.num_pages,
                  .page_size = limits.page_size,
                  .vocab_size = limits.vocab_size}) {
  stats_.kv_pages_total = limits.num_pages;
  thread_ = std::thread([this] { run(); });
}

// ---------------------------------------------------------------- any thread

/// Whether a request may be accepted now; mutex_ held.
Result<void> EngineLoop::check_acceptance(RequestId id) const {
  if (!failure_.empty()) {
    return fail(ErrorCode::kInternal, "the engine has failed: " + failure_);
  }
  if (mode_ != Mode::kServing) return fail(ErrorCode::kUnavailable, "the engine is shutting down");
  if (id != 0 && live_.count(id) > 0) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("request {} is in flight already", id),
                "id");
  }
  if (!has_room()) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("{} requests wait already; try again later", config_.max_queue_size));
  }
  return {};
}

bool EngineLoop::has_room() const {
  return static_cast<int64_t>(inbox_.size()) + unscheduled_ < config_.max_queue_size;
}

Result<RequestHandle> EngineLoop::submit(Request request, std::shared_ptr<EventQueue> events) {
  const Result<int64_t> max_output = check_request(request, limits_);
  if (!max_output) return tl::unexpected(max_output.error());
  int64_t arrival = 0;
  {
    // Also before anything is allocated: a refused request costs nothing.
    const std::lock_guard lock(mutex_);
    if (auto open = check_acceptance(request.id); !open) return tl::unexpected(open.error());
    arrival = next_arrival_++;
  }
  if (!request.eos_token_ids) request.eos_token_ids = limits_.eos_token_ids;
  if (events == nullptr) events = std::make_shared<EventQueue>();
  auto sequence = std::make_unique<Sequence>(std::move(request), *max_output,
                                             mix(config_.seed, static_cast<uint64_t>(arrival)),
                                             arrival, clock_.now_ns());
  RequestId& id = sequence->request.id;
  const std::lock_guard lock(mutex_);
  if (auto open = check_acceptance(id); !open) return tl::unexpected(open.error());
  while (id == 0 || live_.count(id) > 0) id = next_own_id_++;
  live_.insert(id);
  ++open_requests_;
  RequestHandle handle{.id = id, .events = events};
  inbox_.push_back({std::move(sequence), std::move(events)});
  wake_.notify_one();
  return handle;
}

bool EngineLoop::wait_for_room(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  const auto closed = [&] { return mode_ != Mode::kServing || !failure_.empty(); };
  room_.wait_for(lock, timeout, [&] { return closed() || has_room(); });
  return !closed() && has_room();
}

void EngineLoop::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  if (live_.count(id) == 0) return;
  cancels_.push_back(id);
  wake_.notify_one();
}

void EngineLoop::drain() {
  std::unique_lock lock(mutex_);
  if (mode_ == Mode::kServing) mode_ = Mode::kDraining;
  room_.notify_all();
  drained_.wait(lock, [&] { return open_requests_ == 0; });
}

void EngineLoop::shutdown() {
  {
    const std::lock_guard lock(mutex_);
    mode_ = Mode::kStopping;
    wake_.notify_one();
    room_.notify_all();
  }
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

std::string EngineLoop::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

// ------------------------------------------------------------- engine thread

void EngineLoop::run() {
  try {
    while (admit()) iterate();
    stop();
  } catch (const DeviceHang& e) {
    abandon_device();
    fail_everything(e.what());
  } catch (const std::exception& e) {
    fail_everything(e.what());
  }
}

/// Takes what arrived; blocks while there is nothing to do. False: time to stop.
bool EngineLoop::admit() {
  std::vector<Submission> inbox;
  std::vector<RequestId> cancels;
  {
    std::unique_lock lock(mutex_);
    if (scheduler_.idle() && scheduler_.steps_in_flight() == 0) wait_for_work(lock);
    if (mode_ == Mode::kStopping) return false;
    inbox.swap(inbox_);
    cancels.swap(cancels_);
    unscheduled_ += static_cast<int64_t>(inbox.size());
  }
  add_to_scheduler(std::move(inbox));
  for (const RequestId id : cancels) scheduler_.cancel(id, clock_.now_ns());
  return true;
}

void EngineLoop::add_to_scheduler(std::vector<Submission> inbox) {
  for (Submission& submission : inbox) {
    queues_.emplace(submission.sequence->request.id, std::move(submission.events));
    scheduler_.add(std::move(submission.sequence), clock_.now_ns());
  }
}

void EngineLoop::wait_for_work(std::unique_lock<std::mutex>& lock) {
  const auto work = [&] {
    return !inbox_.empty() || !cancels_.empty() || mode_ == Mode::kStopping;
  };
  if (work()) return;
  lock.unlock();
  const std::string problem = scheduler_.check_integrity();
  NANO_CHECK(problem.empty(), "{}", problem);
  const int64_t begin = clock_.now_ns();
  lock.lock();
  wake_.wait(lock, work);
  times_.idle_ns += clock_.now_ns() - begin;
}

/// Schedule step i, launch it, commit step i-1, answer.
void EngineLoop::iterate() {
  const int64_t begin = clock_.now_ns();
  StepBatch& batch = (*batches_)[next_batch_];
  const bool scheduled = scheduler_.schedule(batch, begin);
  const int64_t built = clock_.now_ns();
  times_.schedule_ns += built - begin;
  if (scheduled) {
    naming(batch, [&] { runner_->launch(batch); });
    next_batch_ ^= 1;
    ++times_.steps;
    times_.step_rows = batch.header.num_rows;
    times_.step_decode_rows = batch.header.num_decode_rows;
    times_.launch_ns += clock_.now_ns() - built;
  }
  const int64_t behind = scheduler_.steps_in_flight() - (scheduled ? 1 : 0);
  if (behind > 0) commit_oldest();
  NANO_CHECK(scheduled || behind > 0 || scheduler_.idle(), "{} requests wait for nothing",
             scheduler_.stats().waiting);
  deliver();
}

void EngineLoop::commit_oldest() {
  const int64_t begin = clock_.now_ns();
  const StepResults results = naming(oldest_batch(), [&] { return runner_->results(); });
  const int64_t arrived = clock_.now_ns();
  times_.wait_ns += arrived - begin;
  scheduler_.commit(results, arrived);
  times_.commit_ns += clock_.now_ns() - arrived;
}

const StepBatch& EngineLoop::oldest_batch() const {
  const bool is_only_one = scheduler_.steps_in_flight() == 1;
  return (*batches_)[is_only_one ? next_batch_ ^ 1 : next_batch_];
}

/// Hands events to their queues and publishes the statistics.
void EngineLoop::deliver() {
  std::vector<TokenEvent> events = scheduler_.take_events();
  const int64_t begin = clock_.now_ns();
  {
    const std::lock_guard lock(mutex_);
    // Before the events: who sees a request's end may use its id again.
    for (const TokenEvent& event : events) {
      if (event.finish) live_.erase(event.request_id);
    }
    unscheduled_ = scheduler_.stats().unscheduled;
    publish_stats();
    if (has_room()) room_.notify_all();
  }
  int64_t ended = 0;
  for (TokenEvent& event : events) {
    const auto queue = queues_.find(event.request_id);
    NANO_CHECK(queue != queues_.end(), "request {} has no queue", event.request_id);
    const std::shared_ptr<EventQueue> target = queue->second;
    if (event.finish) {
      queues_.erase(queue);
      ++ended;
    }
    target->push(std::move(event));
  }
  times_.commit_ns += clock_.now_ns() - begin;
  if (ended == 0) return;
  const std::lock_guard lock(mutex_);
  open_requests_ -= ended;
  if (open_requests_ == 0) drained_.notify_all();
}

/// mutex_ held.
void EngineLoop::publish_stats() {
  const SchedulerStats s = scheduler_.stats();
  EngineStats stats = times_;
  stats.running = s.running;
  stats.waiting = s.waiting + static_cast<int64_t>(inbox_.size());
  stats.kv_pages_used = scheduler_.pool().used_pages();
  stats.kv_pages_total = limits_.num_pages;
  stats.prompt_tokens = s.prompt_rows;
  stats.output_tokens = s.output_tokens;
  stats.wasted_rows = s.wasted_rows;
  stats.preemptions = s.preemptions;
  stats.recomputed_rows = s.recomputed_rows;
  stats.finished_stop = s.finished_stop;
  stats.finished_length = s.finished_length;
  stats.finished_abort = s.finished_abort;
  stats.finished_error = s.finished_error;
  stats_ = stats;
}

/// Aborts all requests, those in the inbox included, and lets the steps in flight end.
void EngineLoop::stop() {
  end_all_requests(FinishReason::kAbort, "");
  while (scheduler_.steps_in_flight() > 0) commit_oldest();
  deliver();
}

/// Its threads wait for the device, which may come back and read a batch.
void EngineLoop::abandon_device() {
  abandon(std::move(runner_));
  abandon(std::move(batches_));
}

/// The runner is unusable: every request ends with an error, later ones are refused.
void EngineLoop::fail_everything(const std::string& reason) {
  logger_.debug("the engine stops: {}", reason);  // told by who asked for something
  {
    const std::lock_guard lock(mutex_);
    failure_ = reason.empty() ? "unknown failure" : reason;
    room_.notify_all();
  }
  end_all_requests(FinishReason::kError, "the engine failed while serving this request: " + reason);
  scheduler_.drop_steps_in_flight();
  deliver();
}

/// After mode_ or failure_ was set: nothing can enter the inbox any more.
void EngineLoop::end_all_requests(FinishReason reason, const std::string& error) {
  std::vector<Submission> inbox;
  {
    const std::lock_guard lock(mutex_);
    inbox.swap(inbox_);
    cancels_.clear();
  }
  add_to_scheduler(std::move(inbox));
  scheduler_.finish_all(reason, error, clock_.now_ns());
}

}  // namespace nanoflow
