// Scheduling: which rows run in the next step. What results do to sequences is in
// scheduler_commit.cc.
#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "base/check.h"

namespace nanoflow {

namespace {

/// A fixed quantile per sequence; consecutive arrivals cover (0, 1) evenly (golden ratio sequence),
/// so the forecasts of many sequences together follow the distribution.
double quantile_of(int64_t arrival) {
  constexpr double kGolden = 0.6180339887498949;
  const double x = static_cast<double>(arrival) * kGolden;
  return std::clamp(x - std::floor(x), 0.02, 0.98);
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(config), pool_(config.num_pages, config.page_size) {
  NANO_CHECK(config.max_num_seqs > 0 && config.num_pages > 0, "{} sequences, {} pages",
             config.max_num_seqs, config.num_pages);
  NANO_CHECK(config.max_num_seqs <= config.max_num_batched_tokens, "{} sequences, {} rows",
             config.max_num_seqs, config.max_num_batched_tokens);
  for (int64_t slot = config.max_num_seqs - 1; slot >= 0; --slot) {
    free_slots_.push_back(static_cast<int32_t>(slot));
  }
}

Scheduler::~Scheduler() = default;

void Scheduler::add(std::unique_ptr<Sequence> sequence, int64_t now_ns) {
  NANO_CHECK(pool_.pages_for(sequence->total_rows()) <= pool_.num_pages(), "{} rows never fit",
             sequence->total_rows());
  const SequencePtr shared = std::move(sequence);
  const RequestId id = shared->request.id;
  NANO_CHECK(sequences_.emplace(id, shared).second, "request {} exists", id);
  NANO_CHECK(waiting_.emplace(shared->rank(), shared).second, "arrival {}", shared->arrival);
  ++stats_.unscheduled;
  if (shared->total_rows() == 0) {
    finish(shared, FinishReason::kLength, now_ns);
  } else if (!start_constraint(*shared)) {
    finish(shared, FinishReason::kError, now_ns, constraint_failure());
  }
}

bool Scheduler::schedule(StepBatch& batch, int64_t now_ns) {
  NANO_CHECK(in_flight_.size() <= 1, "{} steps in flight", in_flight_.size());
  decodes_.clear();
  prefills_.clear();
  claimed_pages_ = 0;
  short_of_pages_ = false;
  const auto decodes = std::count_if(running_.begin(), running_.end(), [](const SequencePtr& s) {
    return s->is_decode() && !s->awaits_token();
  });
  int64_t prefill_budget = config_.max_num_batched_tokens - decodes;
  plan_running(prefill_budget);
  plan_waiting(prefill_budget, now_ns);
  if (decodes_.empty() && prefills_.empty()) return false;

  batch.clear();
  batch.index = next_step_++;
  StepRecord record{.index = batch.index, .parts = {}};
  emit_rows(batch, decodes_, record);
  batch.header.num_decode_rows = batch.header.num_rows;
  emit_rows(batch, prefills_, record);
  stats_.decode_rows += batch.header.num_decode_rows;
  stats_.prompt_rows += batch.header.num_rows - batch.header.num_decode_rows;
  in_flight_.push_back(std::move(record));
  return true;
}

/// Oldest first, so that pages go to the oldest; who is preempted was not planned yet.
void Scheduler::plan_running(int64_t& prefill_budget) {
  for (size_t i = 0; i < running_.size(); ++i) {
    const SequencePtr sequence = running_[i];
    NANO_CHECK(sequence->num_pending <= 1, "{} results are missing", sequence->num_pending);
    if (sequence->awaits_token()) continue;
    const bool decode = sequence->is_decode();
    const int64_t wanted = decode ? 1 : std::min(sequence->ready_rows(), prefill_budget);
    if (wanted <= 0) continue;
    const int64_t rows = affordable_rows(*sequence, wanted, i);
    if (rows == 0) continue;
    if (!decode) prefill_budget -= rows;
    (decode ? decodes_ : prefills_).push_back({sequence, rows});
  }
}

/// Takes pages for as many of the `wanted` rows as there is room for, making room for one if need
/// be. 0: the sequence has to wait for a step in flight, or for an older sequence's end.
int64_t Scheduler::affordable_rows(Sequence& sequence, int64_t wanted, size_t index) {
  const auto fitting = [&] {
    const int64_t pages = sequence.pages.num_pages() + unclaimed_free_pages();
    return std::min(wanted, pages * pool_.page_size() - sequence.num_rows);
  };
  int64_t rows = fitting();
  if (rows <= 0) {
    const int64_t missing = sequence.pages.missing_pages(pool_, sequence.num_rows + 1);
    make_room(missing, index);
    rows = fitting();
    if (rows <= 0) {
      claimed_pages_ += missing;
      return 0;
    }
  }
  NANO_CHECK(sequence.pages.grow(pool_, sequence.num_rows + rows), "pages were counted wrongly");
  return rows;
}

int64_t Scheduler::unclaimed_free_pages() const {
  return pool_.free_pages() - std::max<int64_t>(0, claimed_pages_ - retired_pages_);
}

/// Preempts the youngest sequences behind running_[index] until `missing` pages are free or will be
/// when the steps in flight are done.
void Scheduler::make_room(int64_t missing, size_t index) {
  short_of_pages_ = true;
  while (pool_.free_pages() + retired_pages_ - claimed_pages_ < missing &&
         running_.size() > index + 1) {
    preempt(running_.size() - 1);
  }
}

void Scheduler::preempt(size_t index) {
  const SequencePtr victim = running_[index];
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(index));
  stats_.recomputed_rows += victim->num_rows;
  ++stats_.preemptions;
  reserve_.on_preemption();
  ++victim->num_preemptions;
  release(*victim);
  victim->num_rows = 0;
  victim->status = Sequence::Status::kWaiting;
  waiting_.emplace(victim->rank(), victim);
}

/// First come first served: whoever does not fit keeps the younger ones waiting too.
void Scheduler::plan_waiting(int64_t& prefill_budget, int64_t now_ns) {
  if (waiting_.empty() || short_of_pages_ || free_slots_.empty() || prefill_budget == 0) return;
  const auto capacity = static_cast<int64_t>(
      static_cast<double>(pool_.num_pages() * pool_.page_size()) * (1 - reserve_.share()));
  GrowthForecast growth = forecast_running();
  while (!waiting_.empty() && !free_slots_.empty() && prefill_budget > 0) {
    const SequencePtr sequence = waiting_.begin()->second;
    if (sequence->num_pending > 0) return;  // preempted just now; its token arrives with the commit
    const GrowthForecast::Entry entry = forecast(*sequence);
    // Alone it always fits: that was checked when it was accepted.
    if (!running_.empty() && growth.peak_with(entry) > capacity) return;
    const int64_t rows = std::min(
        {sequence->ready_rows(), prefill_budget, unclaimed_free_pages() * pool_.page_size()});
    if (rows <= 0) return;
    start_running(sequence, now_ns);
    NANO_CHECK(sequence->pages.grow(pool_, rows), "pages were counted wrongly");
    growth.add(entry);
    prefill_budget -= rows;
    prefills_.push_back({sequence, rows});
  }
}

void Scheduler::start_running(const SequencePtr& sequence, int64_t now_ns) {
  waiting_.erase(sequence->rank());
  sequence->status = Sequence::Status::kRunning;
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  if (sequence->times.first_scheduled_ns == 0) {
    sequence->times.first_scheduled_ns = now_ns;
    --stats_.unscheduled;
  }
  const auto place = std::upper_bound(
      running_.begin(), running_.end(), sequence,
      [](const SequencePtr& a, const SequencePtr& b) { return a->rank() < b->rank(); });
  running_.insert(place, sequence);
}

GrowthForecast Scheduler::forecast_running() const {
  std::vector<GrowthForecast::Entry> entries;
  entries.reserve(running_.size());
  for (const SequencePtr& sequence : running_) entries.push_back(forecast(*sequence));
  return GrowthForecast(std::move(entries));
}

GrowthForecast::Entry Scheduler::forecast(const Sequence& sequence) const {
  const int64_t output = sequence.num_output() + sequence.num_pending;
  // max_tokens is no forecast: where it is set high by habit it says nothing, and where a benchmark
  // sets it to the length that it wants, it would say everything.
  const int64_t final_output = lengths_.quantile(output, quantile_of(sequence.arrival));
  // Its last page is half full on average.
  return {.resident = sequence.length() + pool_.page_size() / 2,
          .remaining = std::max<int64_t>(0, final_output - output)};
}

void Scheduler::emit_rows(StepBatch& batch, const std::vector<Planned>& planned,
                          StepRecord& record) {
  for (const auto& [sequence, num_rows] : planned) {
    const AppendedSamples samples = append_rows(batch, *sequence, num_rows, pool_);
    sequence->num_rows += num_rows;
    sequence->num_scored += samples.num_targets;
    sequence->num_pending += samples.chooses_token ? 1 : 0;
    sequence->last_step = batch.index;
    record.parts.push_back({sequence, num_rows, samples});
  }
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.running = static_cast<int64_t>(running_.size());
  stats.waiting = static_cast<int64_t>(waiting_.size());
  return stats;
}

std::string Scheduler::check_integrity() const {
  if (std::string problem = pool_.check_integrity(); !problem.empty()) return problem;
  std::set<int32_t> slots(free_slots_.begin(), free_slots_.end());
  int64_t pages = retired_pages_;
  for (const SequencePtr& sequence : running_) {
    pages += sequence->pages.num_pages();
    slots.insert(sequence->slot);
  }
  if (pages != pool_.references()) {
    return fmt::format("{} page references held, {} counted", pages, pool_.references());
  }
  if (static_cast<int64_t>(slots.size()) != config_.max_num_seqs ||
      running_.size() + free_slots_.size() != slots.size()) {
    return fmt::format("{} running sequences and {} free slots make {} slots", running_.size(),
                       free_slots_.size(), slots.size());
  }
  for (const auto& [rank, sequence] : waiting_) {
    if (sequence->pages.num_pages() != 0 || sequence->slot != -1) {
      return fmt::format("waiting request {} holds pages or a slot", sequence->request.id);
    }
  }
  if (sequences_.size() != running_.size() + waiting_.size()) {
    return fmt::format("{} requests, of which {} run and {} wait", sequences_.size(),
                       running_.size(), waiting_.size());
  }
  return {};
}

}  // namespace nanoflow
