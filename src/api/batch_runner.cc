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

/// Names of columns that are told; a data set with more has been misread.
constexpr size_t kMaxIgnoredColumns = 100;

bool is_absent(const Json& body, std::string_view key) {
  const Json* value = body.find(key);
  return value == nullptr || value->is_null();
}

Json with_defaults(Json body, const Json& defaults) {
  if (!defaults.is_object()) return body;
  for (const auto& [key, value] : defaults.as_object()) {
    const bool chat_limit = key == "max_tokens" && !is_absent(body, "max_completion_tokens");
    if (is_absent(body, key) && !chat_limit) body.set(key, value);
  }
  return body;
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits; a zero byte ends each part.
class Fingerprint {
 public:
  void add(std::string_view part) {
    for (const char c : part) add_byte(static_cast<unsigned char>(c));
    add_byte(0);
  }
  [[nodiscard]] uint64_t value() const { return value_; }

 private:
  void add_byte(unsigned char byte) { value_ = (value_ ^ byte) * 0x100000001b3u; }
  uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace

BatchRunner::BatchRunner(Engine& engine, const TextModel& model, BatchOptions options,
                         BatchOutput* output, OnResult on_result)
    : engine_(engine),
      model_(model),
      options_(std::move(options)),
      output_(output),
      on_result_(std::move(on_result)) {}

void BatchRunner::check_resumed(DatasetReader& reader) const {
  if (output_ == nullptr || output_->num_done() == 0) return;
  int64_t met = 0;
  while (const std::optional<DatasetItem> item = reader.next())
    met += is_done(*item, fingerprint(*item)) ? 1 : 0;
  check_all_done_were_met(met);
}

void BatchRunner::check_all_done_were_met(int64_t met) const {
  if (output_ == nullptr || met == output_->num_done()) return;
  throw FormatError(output_->path().string(),
                    fmt::format("has {} answers, but the data set only {} of these items: it is "
                                "not that of the run to resume; --overwrite starts over",
                                output_->num_done(), met));
}

/// Of everything that decides what is asked.
uint64_t BatchRunner::fingerprint(const DatasetItem& item) const {
  Fingerprint fingerprint;
  fingerprint.add(model_.name);
  fingerprint.add(item.endpoint == Endpoint::kChatCompletions ? "chat" : "text");
  fingerprint.add(item.custom_id);
  fingerprint.add(item.body.has_value() ? with_defaults(*item.body, options_.defaults).dump()
                                        : item.body.error().message);
  return fingerprint.value();
}

bool BatchRunner::is_done(const DatasetItem& item, uint64_t fingerprint) const {
  return output_ != nullptr && output_->is_done(item.index, fingerprint);
}

void BatchRunner::run(DatasetReader& reader, const std::atomic<bool>& interrupted) {
  using namespace std::chrono_literals;
  while (!input_ended_ || !in_flight_.empty()) {
    if (interrupted.load()) {
      was_interrupted_ = true;
      cancel_all();
      break;
    }
    fill(reader);
    // Short enough that Ctrl-C and room in the submit queue are noticed, long enough to cost
    // nothing.
    const auto timeout = pending_.has_value() ? 5ms : 100ms;
    for (const TokenEvent& event : events_->pop_all(timeout)) on_event(event);
    if (!engine_.healthy()) throw EnvironmentError("the engine failed: " + engine_.failure());
  }
  if (output_ != nullptr) output_->finish();
}

void BatchRunner::fill(DatasetReader& reader) {
  // A pipe whose writer takes its time must not keep finished answers waiting.
  while (!input_ended_ && submit_pending() &&
         static_cast<int64_t>(in_flight_.size()) < options_.max_in_flight && reader.ready()) {
    std::optional<DatasetItem> item = reader.next();
    if (!item.has_value()) {
      input_ended_ = true;
      return check_all_done_were_met(num_met_done_);
    }
    const uint64_t asked = fingerprint(*item);
    if (is_done(*item, asked)) {
      ++num_met_done_;
    } else {
      start(std::move(*item), asked);
    }
  }
  submit_pending();
}

Result<OpenAiRequest> BatchRunner::parse(const DatasetItem& item) {
  if (!item.body.has_value()) return tl::unexpected(item.body.error());
  RequestLimits limits;
  limits.allow_unknown_fields = item.is_record;
  Result<OpenAiRequest> request = parse_openai_request(
      item.endpoint, with_defaults(*item.body, options_.defaults), model_.defaults, limits);
  if (!request.has_value()) return request;
  if (request->stream)
    return fail(ErrorCode::kUnsupported, "stream: a batch cannot stream", "stream");
  request->max_tokens_is_default =
      is_absent(*item.body, "max_tokens") && is_absent(*item.body, "max_completion_tokens");
  return request;
}

void BatchRunner::start(DatasetItem item, uint64_t fingerprint) {
  const int64_t key = item.index;
  InFlight& entry =
      in_flight_.emplace(key, InFlight{std::move(item), fingerprint, {}, {}}).first->second;
  Result<OpenAiRequest> request = parse(entry.item);
  if (!request.has_value()) return finish(key, request.error());
  for (const std::string& name : request->unknown_fields) {
    if (ignored_columns_.size() >= kMaxIgnoredColumns || !ignored_columns_.insert(name).second)
      continue;
    if (options_.on_ignored_column) options_.on_ignored_column(name);
  }
  Result<Completion> completion = Completion::create(
      model_, std::move(*request), fmt::format("cmpl-{}", batch_request_id(key)), next_id_);
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
  // What a dead engine did not answer is not answered: a later run does.
  if (error.has_value() && !engine_.healthy())
    throw EnvironmentError("the engine failed: " + engine_.failure());
  if (error.has_value()) {
    cancel(entry);
    stats_.add_failure();
  } else {
    stats_.add_request(entry.completion->prompt_tokens(), entry.completion->output_tokens());
    for (const Choice& choice : entry.completion->choices())
      stats_.add_latency(choice.times, static_cast<int64_t>(choice.tokens.size()));
  }
  if (output_ != nullptr) {
    int status = 200;
    Json body = error.has_value()
                    ? error_body(*error, &status)
                    : entry.completion->response(static_cast<int64_t>(std::time(nullptr)));
    output_->write(
        key, batch_line(key, entry.fingerprint, entry.item.custom_id, status, std::move(body)));
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
