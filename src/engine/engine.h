// Engine: accepts requests from any thread and answers with TokenEvents. Its own thread runs the
// loop: admit, schedule step i, launch i, commit i-1. All state of the loop belongs to that thread;
// shared with others are the submit queue and the event queues only.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "engine/config.h"
#include "engine/request.h"

namespace nanoflow {

class StepRunner;

/// What submit() returns: the request's name and where its events arrive.
struct RequestHandle {
  RequestId id = 0;
  std::shared_ptr<EventQueue> events;  ///< also held by the engine until the request has finished
};

/// What requests are checked against; constant after start.
struct EngineLimits {
  int64_t max_model_len = 0;  ///< prompt + output tokens of one request
  int64_t vocab_size = 0;
  int64_t page_size = 0;  ///< tokens per KV page
  int64_t num_pages = 0;
  std::vector<int32_t> eos_token_ids;  ///< the model's
  [[nodiscard]] int64_t kv_tokens() const { return page_size * num_pages; }
};

/// A snapshot; counters are totals since start.
struct EngineStats {
  int64_t running = 0;        ///< sequences that hold pages
  int64_t waiting = 0;        ///< submitted or preempted, holding none
  int64_t kv_pages_used = 0;  ///< by running sequences and steps in flight
  int64_t kv_pages_total = 0;
  int64_t steps = 0;
  int64_t prompt_tokens = 0;  ///< computed prompt rows, recomputation included
  int64_t output_tokens = 0;  ///< given to clients
  int64_t wasted_rows = 0;    ///< rows of sequences that had ended one step before
  int64_t preemptions = 0;
  int64_t recomputed_rows = 0;  ///< that preemptions threw away
  int64_t finished_stop = 0, finished_length = 0, finished_abort = 0, finished_error = 0;
  int64_t step_rows = 0;         ///< of the last step: all rows
  int64_t step_decode_rows = 0;  ///< of the last step
  // Where the engine thread's time went, in nanoseconds since start.
  int64_t schedule_ns = 0;  ///< admit, schedule and build the step
  int64_t launch_ns = 0;
  int64_t wait_ns = 0;  ///< for the device
  int64_t commit_ns = 0;
  int64_t idle_ns = 0;
};

class Engine {
 public:
  /// Starts the engine's thread. `clock` and `logger` must outlive the engine. Throws ConfigError
  /// (max_model_len beyond the model, or a KV cache too small for one token).
  Engine(const EngineConfig& config, std::unique_ptr<StepRunner> runner, const Clock& clock,
         Logger& logger);
  /// shutdown().
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Queues a request; any thread, never blocks. Events go to `events`, or to a queue of its own.
  /// Fails with kInvalidArgument (a field, or an id in flight), kContextTooLong (naming both
  /// numbers), kResourceExhausted (queue full: try again later), kInternal (engine failed),
  /// kUnavailable (it is shutting down).
  [[nodiscard]] Result<RequestHandle> submit(Request request,
                                             std::shared_ptr<EventQueue> events = nullptr);
  /// Waits until the submit queue has room, at most `timeout`. False: still full, or submit would
  /// fail anyway.
  [[nodiscard]] bool wait_for_room(std::chrono::nanoseconds timeout);
  /// Ends a request with kAbort soon; unknown and finished ids are ignored. Any thread.
  void cancel(RequestId id);

  /// Refuses new requests and returns when all accepted ones have finished.
  void drain();
  /// Refuses new requests, aborts all others and stops the threads. Any thread but the engine's;
  /// idempotent.
  void shutdown();

  [[nodiscard]] const EngineLimits& limits() const;
  [[nodiscard]] EngineStats stats() const;
  /// False once a worker has failed; failure() then says why in one line.
  [[nodiscard]] bool healthy() const;
  [[nodiscard]] std::string failure() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nanoflow
