#include "api/batch_runner.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"

namespace nanoflow {
namespace {

Json with_defaults(Json body, const Json& defaults) {
  if (!defaults.is_object()) return body;
  for (const auto& [key, value] : defaults.as_object()) {
    const bool chat_limit = key == "max_tokens" && body.find("max_completion_tokens") != nullptr;
    if (body.find(key) == nullptr && !chat_limit) body.set(key, value);
  }
  return body;
}

}  // namespace

BatchRunner::BatchRunner(Engine& engine, const TextModel& model, BatchOptions options,
                         BatchOutput* output, OnResult on_result)
    : engine_(engine),
      model_(model),
      options_(std::move(options)),
      output_(output),
      on_result_(std::move(on_result)) {}

void BatchRunner::run(DatasetReader& reader, const std::atomic<bool>& interrupted) {
  using namespace std::chrono_literals;
  while (!input_ended_ || !in_flight_.empty()) {
    if (interrupted.load()) {
      was_interrupted_ = true;
      cancel_all();
      break;
    }
    fill(reader);
    if (!engine_.healthy() && !input_ended_)
      throw EnvironmentError("the engine failed: " + engine_.failure());
    // Short enough that Ctrl-C and room in the submit queue are noticed, long enough to cost
    // nothing.
    const auto timeout = pending_.has_value() ? 5ms : 100ms;
    for (const TokenEvent& event : events_->pop_all(timeout)) on_event(event);
  }
  if (output_ != nullptr) output_->sync();
}

void BatchRunner::fill(DatasetReader& reader) {
  while (!input_ended_ && submit_pending() &&
         static_cast<int64_t>(in_flight_.size()) < options_.max_in_flight) {
    std::optional<DatasetItem> item = reader.next();
    if (!item.has_value()) {
      input_ended_ = true;
      return;
    }
    if (output_ != nullptr && output_->is_done(item->index)) continue;
    start(std::move(*item));
  }
  submit_pending();
}

void BatchRunner::start(DatasetItem item) {
  const int64_t key = item.index;
  if (output_ != nullptr) output_->expect(key);
  InFlight& entry = in_flight_.emplace(key, InFlight{std::move(item), {}, {}}).first->second;
  if (!entry.item.body.has_value()) return finish(key, entry.item.body.error());
  Result<OpenAiRequest> request = parse_openai_request(
      entry.item.endpoint, with_defaults(*entry.item.body, options_.defaults), model_.defaults);
  if (!request.has_value()) return finish(key, request.error());
  if (request->stream)
    return finish(key, Error{ErrorCode::kUnsupported, "stream: a batch cannot stream", "stream"});
  Result<Completion> completion = Completion::create(
      model_, std::move(*request), fmt::format("cmpl-{}", batch_line_id(key)), next_id_);
  if (!completion.has_value()) return finish(key, completion.error());
  entry.completion = std::move(*completion);
  entry.unsubmitted = entry.completion->take_engine_requests();
  next_id_ += entry.unsubmitted.size();
  std::reverse(entry.unsubmitted.begin(), entry.unsubmitted.end());
  pending_ = key;
  submit_pending();
}

/// Moves the pending item's requests to the engine. False when its queue is full.
bool BatchRunner::submit_pending() {
  if (!pending_.has_value()) return true;
  const int64_t key = *pending_;
  InFlight& entry = in_flight_.at(key);
  while (!entry.unsubmitted.empty()) {
    const RequestId id = entry.unsubmitted.back().id;
    item_of_request_[id] = key;
    const Result<RequestHandle> handle = engine_.submit(entry.unsubmitted.back(), events_);
    if (!handle.has_value()) {
      item_of_request_.erase(id);
      if (handle.error().code == ErrorCode::kResourceExhausted) return false;
      pending_.reset();
      finish(key, handle.error());
      return true;
    }
    entry.unsubmitted.pop_back();
  }
  pending_.reset();
  return true;
}

void BatchRunner::on_event(const TokenEvent& event) {
  const auto found = item_of_request_.find(event.request_id);
  if (found == item_of_request_.end()) return;  // of an item that has ended
  const int64_t key = found->second;
  InFlight& entry = in_flight_.at(key);
  const ChoiceDelta delta = entry.completion->on_event(event);
  if (delta.cancel) engine_.cancel(event.request_id);
  if (delta.finished) item_of_request_.erase(found);
  if (entry.completion->done()) finish(key, entry.completion->error());
}

void BatchRunner::finish(int64_t key, std::optional<Error> error) {
  const auto found = in_flight_.find(key);
  NANO_CHECK(found != in_flight_.end(), "item {}", key);
  InFlight& entry = found->second;
  if (error.has_value()) {
    cancel(entry);
    stats_.add_failure();
  } else {
    for (const Choice& choice : entry.completion->choices()) {
      const auto prompt =
          static_cast<int64_t>(entry.completion->prompts()[choice.prompt].ids.size());
      stats_.add(choice.times, prompt, static_cast<int64_t>(choice.tokens.size()));
    }
  }
  if (output_ != nullptr) {
    int status = 200;
    Json body = error.has_value()
                    ? error_body(*error, &status)
                    : entry.completion->response(static_cast<int64_t>(std::time(nullptr)));
    output_->write(key, batch_line(key, entry.item.custom_id, status, std::move(body)));
  }
  if (on_result_)
    on_result_({entry.item, error.has_value() ? nullptr : &*entry.completion, std::move(error)});
  in_flight_.erase(found);
}

void BatchRunner::cancel(InFlight& entry) {
  if (!entry.completion.has_value()) return;
  for (const Choice& choice : entry.completion->choices()) {
    if (item_of_request_.erase(choice.request_id) > 0) engine_.cancel(choice.request_id);
  }
}

void BatchRunner::cancel_all() {
  for (auto& [key, entry] : in_flight_) cancel(entry);
  in_flight_.clear();
  pending_.reset();
}

}  // namespace nanoflow
