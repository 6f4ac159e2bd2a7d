// What results, cancellations and failures do to sequences, and when their pages become free.
#include <algorithm>

#include "base/check.h"
#include "engine/scheduler.h"

namespace nanoflow {

namespace {

TokenLogprob read_logprob(const StepResults& results, size_t sample, int64_t wanted) {
  TokenLogprob entry{.token = results.ids[sample],
                     .logprob = results.logprobs[sample],
                     .rank = results.ranks[sample],
                     .top = {}};
  for (size_t k = 0; k < static_cast<size_t>(wanted); ++k) {
    const size_t at = sample * kMaxTopLogprobs + k;
    if (results.top_ids[at] < 0) break;  // the vocabulary is smaller than what was asked for
    entry.top.push_back({results.top_ids[at], results.top_logprobs[at]});
  }
  return entry;
}

}  // namespace

TokenEvent constraint_failure() {
  TokenEvent event;
  // Of the request's own making: its grammar leads to characters that no tokens of the model spell,
  // or needs too much time for the next mask.
  event.error_code = ErrorCode::kInvalidArgument;
  event.error =
      "the output cannot go on within the structure that was asked for: no token of the model "
      "fits, "
      "or to find the ones that do takes too long; ask for a simpler structure";
  return event;
}

bool Scheduler::start_constraint(Sequence& sequence) const {
  const Request& request = sequence.request;
  if (request.constraint == nullptr || sequence.max_output == 0) return true;
  sequence.constraint = request.constraint->start(request.eos_token_ids ? *request.eos_token_ids
                                                                        : std::vector<int32_t>{});
  if (sequence.constraint == nullptr) return false;
  sequence.mask.resize(static_cast<size_t>(mask_words(config_.vocab_size)));
  return sequence.update_mask();
}

/// Takes the latest output token. False: the output cannot go on.
bool Scheduler::advance_constraint(Sequence& sequence, int32_t token) const {
  if (!sequence.constraint->accept(token)) return false;
  return sequence.constraint->ended() || sequence.update_mask();
}

void Scheduler::commit(const StepResults& results, int64_t now_ns) {
  NANO_CHECK(!in_flight_.empty() && in_flight_.front().index == results.index, "step {}",
             results.index);
  const StepRecord record = std::move(in_flight_.front());
  in_flight_.pop_front();
  size_t sample = 0;
  for (const Part& part : record.parts) {
    if (part.sequence->status == Sequence::Status::kFinished) {
      stats_.wasted_rows += part.num_rows;
    } else {
      commit_part(part, results, sample, now_ns);
    }
    sample += static_cast<size_t>(part.samples.num_targets) + (part.samples.chooses_token ? 1 : 0);
  }
  NANO_CHECK(sample == results.ids.size(), "{} samples of {}", sample, results.ids.size());
  free_retired_pages(record.index);
  sweep_running();
}

void Scheduler::commit_part(const Part& part, const StepResults& results, size_t first_sample,
                            int64_t now_ns) {
  Sequence& sequence = *part.sequence;
  const auto num_targets = static_cast<size_t>(part.samples.num_targets);
  for (size_t i = 0; i < num_targets; ++i) {
    sequence.prompt_logprobs.push_back(
        read_logprob(results, first_sample + i, sequence.request.sampling.prompt_logprobs));
  }
  if (part.samples.chooses_token) {
    commit_token(part.sequence, results, first_sample + num_targets, now_ns);
  } else if (sequence.max_output == 0 &&
             static_cast<int64_t>(sequence.prompt_logprobs.size()) == sequence.num_prompt - 1) {
    finish(part.sequence, FinishReason::kLength, now_ns);
  }
}

void Scheduler::commit_token(const SequencePtr& sequence, const StepResults& results, size_t sample,
                             int64_t now_ns) {
  const int32_t token = results.ids[sample];
  NANO_CHECK(token >= 0, "token {}", token);
  sequence->tokens.push_back(token);
  --sequence->num_pending;
  ++stats_.output_tokens;
  if (sequence->times.first_token_ns == 0) sequence->times.first_token_ns = now_ns;
  TokenEvent event;
  event.tokens.push_back(token);
  const int64_t wanted = sequence->request.sampling.logprobs;
  if (wanted >= 0) event.logprobs.push_back(read_logprob(results, sample, wanted));

  const int64_t length = sequence->num_output();
  bool stopped = sequence->stops_at(token) && length > sequence->request.sampling.min_tokens;
  const bool is_stop_token = sequence->stops_at(token);
  if (sequence->constraint != nullptr) {
    if (!advance_constraint(*sequence, token) && !stopped && length < sequence->max_output) {
      TokenEvent failure = constraint_failure();
      failure.tokens = std::move(event.tokens);
      failure.logprobs = std::move(event.logprobs);
      return finish(sequence, FinishReason::kError, now_ns, std::move(failure));
    }
    stopped = stopped || sequence->constraint->ended();
  }
  if (stopped || length == sequence->max_output) {
    lengths_.on_finish(length);
    reserve_.on_finish();
    if (stopped && is_stop_token) event.stop_token = token;
    finish(sequence, stopped ? FinishReason::kStop : FinishReason::kLength, now_ns,
           std::move(event));
  } else {
    lengths_.on_token(length);
    push_event(*sequence, std::move(event), now_ns);
  }
}

/// Ends a sequence wherever it is. A running one stays in running_ until sweep_running().
void Scheduler::finish(const SequencePtr& sequence, FinishReason reason, int64_t now_ns,
                       TokenEvent event) {
  if (sequence->status == Sequence::Status::kRunning) {
    release(*sequence);
  } else {
    waiting_.erase(sequence->rank());
    if (sequence->times.first_scheduled_ns == 0) --stats_.unscheduled;
  }
  sequence->status = Sequence::Status::kFinished;
  switch (reason) {
    case FinishReason::kStop: ++stats_.finished_stop; break;
    case FinishReason::kLength: ++stats_.finished_length; break;
    case FinishReason::kAbort: ++stats_.finished_abort; break;
    case FinishReason::kError: ++stats_.finished_error; break;
  }
  event.finish = reason;
  push_event(*sequence, std::move(event), now_ns);
  sequences_.erase(sequence->request.id);
}

/// Gives back the slot at once: steps run in order, so whoever gets it next writes it after the
/// last step that used it. Pages wait until no step in flight refers to them.
void Scheduler::release(Sequence& sequence) {
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
  const bool in_use = !in_flight_.empty() && in_flight_.front().index <= sequence.last_step;
  if (in_use && sequence.pages.num_pages() > 0) {
    retired_pages_ += sequence.pages.num_pages();
    retired_.push_back({sequence.last_step, std::move(sequence.pages)});
  }
  sequence.pages.clear();
}

void Scheduler::free_retired_pages(int64_t committed_step) {
  std::erase_if(retired_, [&](const RetiredPages& retired) {
    if (retired.step > committed_step) return false;
    retired_pages_ -= retired.pages.num_pages();
    return true;
  });
}

void Scheduler::sweep_running() {
  std::erase_if(running_, [](const SequencePtr& sequence) {
    return sequence->status == Sequence::Status::kFinished;
  });
}

void Scheduler::cancel(RequestId id, int64_t now_ns) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  const SequencePtr sequence = found->second;
  finish(sequence, FinishReason::kAbort, now_ns);
  sweep_running();
}

void Scheduler::finish_all(FinishReason reason, const std::string& error, int64_t now_ns) {
  std::vector<SequencePtr> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(sequence);
  std::sort(all.begin(), all.end(),
            [](const SequencePtr& a, const SequencePtr& b) { return a->rank() < b->rank(); });
  for (const SequencePtr& sequence : all) {
    TokenEvent event;
    event.error = error;
    finish(sequence, reason, now_ns, std::move(event));
  }
  sweep_running();
}

void Scheduler::drop_steps_in_flight() {
  NANO_CHECK(idle(), "requests still wait for results");
  in_flight_.clear();
  retired_.clear();
  retired_pages_ = 0;
}

void Scheduler::push_event(Sequence& sequence, TokenEvent event, int64_t now_ns) {
  event.request_id = sequence.request.id;
  const bool whole = event.finish != FinishReason::kAbort && event.finish != FinishReason::kError;
  if (!sequence.first_event_sent && whole) {
    event.prompt_logprobs = std::move(sequence.prompt_logprobs);
  }
  sequence.first_event_sent = true;
  sequence.times.event_ns = now_ns;
  event.prompt_tokens = sequence.num_prompt;
  event.output_tokens = sequence.num_output();
  event.num_preemptions = sequence.num_preemptions;
  event.times = sequence.times;
  events_.push_back(std::move(event));
}

}  // namespace nanoflow
