// Generation: one completion or chat request on its way from its submission to its last byte. Lives
// on one of the server's threads; the engine's events reach it through that thread's EventPump.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "api/completion.h"
#include "api/stream_chunks.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "server/http.h"
#include "server/metrics.h"

namespace nanoflow {

class Generation;

/// Brings the engine's events to the generations of one server thread. All members but the counter
/// on that thread.
class EventPump {
 public:
  /// `thread` must outlive the engine that pushes to queue().
  explicit EventPump(HttpThread& thread);
  EventPump(const EventPump&) = delete;
  EventPump& operator=(const EventPump&) = delete;

  [[nodiscard]] HttpThread& thread() { return thread_; }
  [[nodiscard]] const std::shared_ptr<EventQueue>& queue() { return queue_; }
  /// Events of `id` go to `generation`, which lives until the last of them.
  void add(RequestId id, std::shared_ptr<Generation> generation);
  void remove(RequestId id) { generations_.erase(id); }
  /// Cancels everything that runs; each is told `why`.
  void cancel_all(const Error& why);

 private:
  void deliver();

  HttpThread& thread_;
  std::shared_ptr<EventQueue> queue_;  // shared with the engine
  std::unordered_map<RequestId, std::shared_ptr<Generation>> generations_;
};

/// What all generations use; outlives them.
struct GenerationContext {
  Engine& engine;
  ServerMetrics& metrics;
  Logger& logger;
  const Clock& clock;
  std::atomic<int64_t>& in_flight;
};

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  /// `headers`: of the answer, whatever it is. `arrival_ns`: when the request came, by
  /// context.clock.
  Generation(const GenerationContext& context, EventPump& pump,
             std::shared_ptr<HttpExchange> exchange, Completion completion,
             std::vector<HttpHeader> headers, int64_t arrival_ns);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  /// Submits to the engine; answers with the error where it refuses. `deadline`: from now, after
  /// which the request is given up; 0: none.
  void start(std::chrono::milliseconds deadline);
  void on_event(const TokenEvent& event);
  /// Ends what still runs and tells the client `why`.
  void give_up(const Error& why);

 private:
  void cancel_rest();
  void count_event(const TokenEvent& event, size_t choice);
  void record_choice(const Choice& choice, const TokenEvent& event);
  void stream(const ChoiceDelta& delta);
  void finish();
  void fail(const Error& error);
  void log_end(std::string_view how);

  GenerationContext context_;
  EventPump& pump_;
  std::shared_ptr<HttpExchange> exchange_;  // shared with its connection
  Completion completion_;
  StreamChunks chunks_;
  std::vector<HttpHeader> headers_;
  const int64_t arrival_ns_;
  std::vector<RequestId> ids_;          // submitted
  std::vector<int64_t> last_token_ns_;  // per choice; 0: none yet
  bool streaming_ = false;              // the head of a stream has gone out
  bool answered_ = false;               // nothing more goes to the client
  std::string buffer_;                  // of one event's chunks; keeps its memory
};

}  // namespace nanoflow
