#include "server/generation.h"

#include <algorithm>
#include <utility>

#include "server/answers.h"

namespace nanoflow {
namespace {

double seconds(int64_t from_ns, int64_t to_ns) {
  return from_ns == 0 || to_ns < from_ns ? 0 : static_cast<double>(to_ns - from_ns) * 1e-9;
}

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

EventPump::EventPump(HttpThread& thread)
    : thread_(thread),
      queue_(std::make_shared<EventQueue>([this] { thread_.post([this] { deliver(); }); })) {}

void EventPump::add(RequestId id, std::shared_ptr<Generation> generation) {
  generations_.emplace(id, std::move(generation));
}

void EventPump::deliver() {
  for (const TokenEvent& event : queue_->pop_all(std::chrono::nanoseconds(0))) {
    const auto found = generations_.find(event.request_id);
    if (found == generations_.end()) continue;
    const std::shared_ptr<Generation> generation = found->second;
    if (event.finish.has_value()) generations_.erase(found);
    generation->on_event(event);
  }
}

void EventPump::cancel_all(const Error& why) {
  std::vector<std::shared_ptr<Generation>> running;
  for (const auto& [id, generation] : generations_) running.push_back(generation);
  for (const std::shared_ptr<Generation>& generation : running) generation->give_up(why);
}

Generation::Generation(const GenerationContext& context, EventPump& pump,
                       std::shared_ptr<HttpExchange> exchange, Completion completion,
                       std::vector<HttpHeader> headers, int64_t arrival_ns)
    : context_(context),
      pump_(pump),
      exchange_(std::move(exchange)),
      completion_(std::move(completion)),
      chunks_(completion_, unix_seconds()),
      headers_(std::move(headers)),
      arrival_ns_(arrival_ns),
      last_token_ns_(completion_.choices().size(), 0) {
  ++context_.in_flight;
}

Generation::~Generation() {
  --context_.in_flight;
}

void Generation::start(std::chrono::milliseconds deadline) {
  // Before anything is submitted: a client that has gone already is known at once.
  exchange_->on_closed([self = weak_from_this()] {
    if (const auto generation = self.lock())
      generation->give_up({ErrorCode::kCancelled, "the client has gone", {}});
  });
  for (Request& request : completion_.take_engine_requests()) {
    if (answered_) return;
    const RequestId id = request.id;
    pump_.add(id, shared_from_this());
    const Result<RequestHandle> handle = context_.engine.submit(std::move(request), pump_.queue());
    if (!handle.has_value()) {
      pump_.remove(id);
      fail(handle.error());
      return;
    }
    ids_.push_back(id);
  }
  if (deadline.count() <= 0) return;
  pump_.thread().post_after(deadline, [self = weak_from_this(), deadline] {
    if (const auto generation = self.lock())
      generation->give_up(
          {ErrorCode::kDeadlineExceeded,
           fmt::format("not finished within {} s", static_cast<double>(deadline.count()) * 1e-3),
           {}});
  });
}

void Generation::on_event(const TokenEvent& event) {
  const ChoiceDelta delta = completion_.on_event(event);
  const auto index = static_cast<size_t>(delta.choice);
  count_event(event, index);
  // The engine's last word on a choice, also when its text had ended before.
  if (event.finish.has_value()) record_choice(completion_.choices()[index], event);
  if (answered_) return;
  if (delta.cancel) context_.engine.cancel(event.request_id);
  if (const std::optional<Error> error = completion_.error()) return fail(*error);
  if (event.finish == FinishReason::kAbort && delta.finished &&
      completion_.choices()[index].finish_reason == "abort")
    return fail({ErrorCode::kUnavailable, "the server is shutting down", {}});
  if (completion_.request().stream) stream(delta);
  if (completion_.done()) finish();
}

void Generation::count_event(const TokenEvent& event, size_t choice) {
  if (event.tokens.empty()) return;
  int64_t& last = last_token_ns_[choice];
  if (last == 0) {
    context_.metrics.first_token(seconds(arrival_ns_, event.times.event_ns));
  } else {
    context_.metrics.inter_token(seconds(last, event.times.event_ns),
                                 static_cast<int64_t>(event.tokens.size()));
  }
  last = event.times.event_ns;
}

void Generation::record_choice(const Choice& choice, const TokenEvent& event) {
  const RequestTimes& times = event.times;
  const SamplingParams& sampling = completion_.request().sampling;
  context_.metrics.request_finished(
      {.ttft_s = seconds(arrival_ns_, times.first_token_ns),
       .queue_s = seconds(times.submitted_ns, times.first_scheduled_ns),
       .prefill_s = seconds(times.first_scheduled_ns, times.first_token_ns),
       .decode_s = seconds(times.first_token_ns, times.event_ns),
       .inference_s = seconds(times.first_scheduled_ns, times.event_ns),
       .e2e_s = seconds(arrival_ns_, times.event_ns),
       .prompt_tokens = event.prompt_tokens,
       .output_tokens = event.output_tokens,
       .n = completion_.request().n,
       .max_tokens = sampling.max_tokens.value_or(0),
       .preemptions = event.num_preemptions,
       .finished_reason = choice.finish_reason.empty()
                              ? std::string(finish_reason_name(*event.finish))
                              : choice.finish_reason});
}

void Generation::stream(const ChoiceDelta& delta) {
  buffer_.clear();
  chunks_.append(delta, buffer_);
  if (buffer_.empty()) return;
  if (streaming_) return exchange_->write(buffer_);
  streaming_ = true;
  HttpResponse head{
      .content_type = "text/event-stream; charset=utf-8", .headers = headers_, .body = buffer_};
  head.headers.push_back({"Cache-Control", "no-cache"});
  head.headers.push_back({"X-Accel-Buffering", "no"});  // nginx would hold events back
  exchange_->begin_stream(std::move(head));
}

void Generation::finish() {
  answered_ = true;
  if (completion_.request().stream) {
    buffer_.clear();
    chunks_.append_end(buffer_);
    exchange_->write(buffer_);
    exchange_->end_stream();
  } else {
    HttpResponse response = json_answer(completion_.response(unix_seconds()));
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    exchange_->respond(std::move(response));
  }
  context_.metrics.http_answer(200);
  log_end("done");
}

void Generation::fail(const Error& error) {
  cancel_rest();
  answered_ = true;
  if (streaming_) {
    buffer_.clear();
    StreamChunks::append_error(error, buffer_);
    exchange_->write(buffer_);
    exchange_->end_stream();
  } else {
    HttpResponse response = error_answer(error);
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    context_.metrics.http_answer(response.status);
    exchange_->respond(std::move(response));
  }
  log_end(error.message);
}

void Generation::give_up(const Error& why) {
  if (!answered_) fail(why);
}

void Generation::cancel_rest() {
  for (const RequestId id : ids_) context_.engine.cancel(id);
}

void Generation::log_end(std::string_view how) {
  context_.logger.debug("{}: {} prompt and {} output tokens in {:.3f} s: {}",
                        completion_.response_id(), completion_.prompt_tokens(),
                        completion_.output_tokens(), seconds(arrival_ns_, context_.clock.now_ns()),
                        how);
}

}  // namespace nanoflow
