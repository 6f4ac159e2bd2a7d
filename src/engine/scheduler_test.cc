// Random workloads against a fake device: every request must end exactly once, with the tokens that
// it gets when it runs alone, and nothing may leak, starve or spin.
#include "engine/scheduler.h"

#include <map>
#include <optional>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "engine/fake_runner.h"
#include "engine/request_check.h"

namespace nanoflow {
namespace {

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  std::vector<float> prompt_logprobs;
  std::optional<FinishReason> finish;
  int64_t preemptions = 0;
  bool operator==(const Outcome& o) const {
    return tokens == o.tokens && logprobs == o.logprobs && prompt_logprobs == o.prompt_logprobs &&
           finish == o.finish;
  }
};

/// What the fake model answers to one request by itself, without any engine.
Outcome run_alone(const Request& request, int64_t max_output, uint64_t eos_period) {
  const SamplingParams& p = request.sampling;
  Outcome outcome;
  std::vector<int32_t> tokens;
  for (const int32_t token : request.prompt) {
    if (!tokens.empty() && p.prompt_logprobs >= 0) {
      outcome.prompt_logprobs.push_back(fake::logprob_of(tokens, token));
    }
    tokens.push_back(token);
  }
  std::set<int32_t> stops(p.stop_token_ids.begin(), p.stop_token_ids.end());
  if (!p.ignore_eos) stops.insert(fake::kEos);
  outcome.finish = FinishReason::kLength;
  for (int64_t n = 0; n < max_output; ++n) {
    std::vector<int32_t> forbidden;
    if (n < p.min_tokens) forbidden.assign(stops.begin(), stops.end());
    const int32_t token = fake::next_token(tokens, *p.seed, forbidden, eos_period);
    outcome.tokens.push_back(token);
    if (p.logprobs >= 0) outcome.logprobs.push_back(fake::logprob_of(tokens, token));
    tokens.push_back(token);
    if (stops.count(token) > 0) {
      outcome.finish = FinishReason::kStop;
      break;
    }
  }
  return outcome;
}

EngineLimits limits_of(int64_t num_pages, int64_t page_size) {
  EngineLimits limits;
  limits.num_pages = num_pages;
  limits.page_size = page_size;
  limits.max_model_len = limits.kv_tokens();
  limits.vocab_size = fake::kVocab;
  limits.eos_token_ids = {fake::kEos};
  return limits;
}

/// A scheduler on a fake device, driven as the engine's loop drives it.
class Harness {
 public:
  Harness(const EngineLimits& limits, int64_t max_tokens, int64_t max_seqs, uint64_t eos_period)
      : limits_(limits),
        eos_period_(eos_period),
        scheduler_({.max_num_batched_tokens = max_tokens,
                    .max_num_seqs = max_seqs,
                    .num_pages = limits.num_pages,
                    .page_size = limits.page_size}),
        device_(limits, max_seqs, eos_period) {
    device_.on_launch = [this, max_tokens](const StepBatch& batch) {
      ASSERT_LE(batch.header.num_rows, max_tokens);
      rows_ += batch.header.num_rows;
    };
  }

  void add(Request request) {
    const Result<int64_t> max_output = check_request(request, limits_);
    ASSERT_TRUE(max_output.has_value()) << max_output.error().message;
    if (!request.eos_token_ids) request.eos_token_ids = limits_.eos_token_ids;
    expected_[request.id] = run_alone(request, *max_output, eos_period_);
    outcomes_[request.id] = {};
    scheduler_.add(std::make_unique<Sequence>(std::move(request), *max_output, 0, arrivals_++, 0),
                   1);
    collect();
  }

  void cancel(RequestId id) {
    cancelled_.insert(id);
    scheduler_.cancel(id, 1);
    collect();
  }

  /// One iteration of the engine's loop. False when nothing was left to do.
  bool step() {
    const bool scheduled = scheduler_.schedule(batches_[next_], 1);
    if (scheduled) {
      device_.launch(batches_[next_]);
      next_ ^= 1;
      ++steps_;
    }
    if (scheduler_.steps_in_flight() > (scheduled ? 1 : 0)) {
      scheduler_.commit(device_.results(), 1);
      collect();
    } else if (!scheduled) {
      return false;
    }
    EXPECT_EQ(scheduler_.check_integrity(), "");
    return true;
  }

  /// Steps until idle, at most `limit` times.
  void run(int64_t limit) {
    while (step()) ASSERT_GE(--limit, 0) << "livelock";
    ASSERT_TRUE(scheduler_.idle());
    ASSERT_EQ(scheduler_.steps_in_flight(), 0);
    ASSERT_EQ(scheduler_.pool().used_pages(), 0);
  }

  void expect_outcomes() {
    for (const auto& [id, got] : outcomes_) {
      ASSERT_TRUE(got.finish.has_value()) << "request " << id << " never ended";
      const Outcome& want = expected_[id];
      if (cancelled_.count(id) > 0 && *got.finish == FinishReason::kAbort) {
        ASSERT_LE(got.tokens.size(), want.tokens.size());
        ASSERT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), want.tokens.begin()));
      } else {
        ASSERT_EQ(got.tokens, want.tokens) << "request " << id;
        ASSERT_TRUE(got == want) << "request " << id;
      }
    }
  }

  [[nodiscard]] SchedulerStats stats() const { return scheduler_.stats(); }
  [[nodiscard]] const Outcome& outcome(RequestId id) { return outcomes_[id]; }
  [[nodiscard]] Scheduler& scheduler() { return scheduler_; }
  [[nodiscard]] int64_t steps() const { return steps_; }
  [[nodiscard]] int64_t rows() const { return rows_; }

 private:
  void collect() {
    for (TokenEvent& event : scheduler_.take_events()) {
      Outcome& outcome = outcomes_.at(event.request_id);
      ASSERT_FALSE(outcome.finish.has_value()) << "news after the end of " << event.request_id;
      const bool first = outcome.tokens.empty();
      outcome.tokens.insert(outcome.tokens.end(), event.tokens.begin(), event.tokens.end());
      for (const TokenLogprob& entry : event.logprobs) outcome.logprobs.push_back(entry.logprob);
      if (!event.prompt_logprobs.empty()) {
        ASSERT_TRUE(first);
        for (const TokenLogprob& entry : event.prompt_logprobs) {
          outcome.prompt_logprobs.push_back(entry.logprob);
        }
      }
      outcome.finish = event.finish;
      outcome.preemptions = event.num_preemptions;
      ASSERT_EQ(event.output_tokens, static_cast<int64_t>(outcome.tokens.size()));
    }
  }

  EngineLimits limits_;
  uint64_t eos_period_;
  Scheduler scheduler_;
  fake::FakeRunner device_;
  StepBatch batches_[2];
  int next_ = 0;
  int64_t arrivals_ = 0;
  int64_t steps_ = 0;
  int64_t rows_ = 0;
  std::map<RequestId, Outcome> expected_;
  std::map<RequestId, Outcome> outcomes_;
  std::set<RequestId> cancelled_;
};

Request request_of(RequestId id, int64_t prompt, std::optional<int64_t> max_tokens) {
  Request request;
  request.id = id;
  for (int64_t i = 0; i < prompt; ++i) {
    request.prompt.push_back(static_cast<int32_t>((id * 131 + static_cast<uint64_t>(i) * 17) %
                                                  static_cast<uint64_t>(fake::kVocab)));
  }
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

Request random_request(std::mt19937& random, RequestId id, const EngineLimits& limits) {
  const auto below = [&](int64_t n) {
    return static_cast<int64_t>(random() % static_cast<uint32_t>(n));
  };
  const int64_t context = limits.max_model_len;
  const bool is_long = below(5) == 0;
  const int64_t prompt = 1 + below(is_long ? context : std::max<int64_t>(1, context / 4));
  const int64_t room = context - prompt;
  std::optional<int64_t> max_tokens = below(room + 1);
  if (below(4) == 0 && room > 0) max_tokens = std::nullopt;
  Request request = request_of(id, prompt, max_tokens);
  SamplingParams& p = request.sampling;
  const int64_t most = max_tokens.value_or(room);
  if (below(3) == 0) p.min_tokens = below(most + 1);
  p.ignore_eos = below(4) == 0;
  if (below(4) == 0) p.stop_token_ids = {3, static_cast<int32_t>(below(fake::kVocab))};
  if (below(3) == 0) p.logprobs = below(4);
  if (below(3) == 0) p.prompt_logprobs = below(3);
  if (below(3) == 0) p.presence_penalty = 0.5;
  if (below(3) == 0) p.repetition_penalty = 1.5;
  if (below(5) == 0) p.priority = below(3);
  if (below(4) == 0) p.logit_bias = {{5, 1.0F}, {6, -1.0F}};
  return request;
}

class RandomWorkload : public ::testing::TestWithParam<int> {};

TEST_P(RandomWorkload, EndsOnceWithTheOutputOfRunningAlone) {
  for (uint32_t round = 0; round < 25; ++round) {
    std::mt19937 random(static_cast<uint32_t>(GetParam()) * 1000 + round);
    const auto pick = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1));
    };
    const EngineLimits limits = limits_of(pick(1, 40), pick(1, 8));
    const int64_t max_seqs = pick(1, 12);
    Harness harness(limits, pick(max_seqs, max_seqs + 30), max_seqs,
                    static_cast<uint64_t>(pick(2, 60)));
    const int64_t requests = pick(1, 60);
    for (int64_t submitted = 0; submitted < requests;) {
      const int64_t burst = pick(0, 4);
      for (int64_t i = 0; i < burst && submitted < requests; ++i) {
        const auto id = static_cast<RequestId>(++submitted);
        ASSERT_NO_FATAL_FAILURE(harness.add(random_request(random, id, limits)));
      }
      if (submitted > 0 && pick(0, 9) == 0) {
        harness.cancel(static_cast<RequestId>(pick(1, submitted)));
      }
      harness.step();
    }
    const int64_t bound = requests * (limits.max_model_len * 3 + 20);
    ASSERT_NO_FATAL_FAILURE(harness.run(bound));
    ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomWorkload, ::testing::Range(0, 20));

TEST(Scheduler, TinyPoolForcesPreemptionsAndOutputsStayTheSame) {
  const EngineLimits limits = limits_of(16, 4);
  Harness harness(limits, 32, 8, 1000000);
  for (RequestId id = 1; id <= 20; ++id) harness.add(request_of(id, 6, 40));
  ASSERT_NO_FATAL_FAILURE(harness.run(5000));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  EXPECT_GT(harness.stats().preemptions, 0);
}

// Three sequences of four pages each, in nine pages, admitted because outputs used to be short.
TEST(Scheduler, TheYoungestIsPreempted) {
  Harness harness(limits_of(9, 4), 32, 4, 1000000);
  for (RequestId id = 1; id <= 600; ++id) harness.add(request_of(id, 4, 1));
  ASSERT_NO_FATAL_FAILURE(harness.run(1000));
  for (RequestId id = 1001; id <= 1003; ++id) {
    Request request = request_of(id, 4, 12);
    request.sampling.ignore_eos = true;
    harness.add(request);
  }
  ASSERT_NO_FATAL_FAILURE(harness.run(200));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  EXPECT_EQ(harness.outcome(1001).preemptions, 0);
  EXPECT_EQ(harness.outcome(1002).preemptions, 0);
  EXPECT_EQ(harness.outcome(1003).preemptions, 1);
}

TEST(Scheduler, KnownLengthsWasteNoRow) {
  Harness harness(limits_of(100, 4), 64, 8, 1000000);
  for (RequestId id = 1; id <= 8; ++id) {
    Request request = request_of(id, 5, 10);
    request.sampling.ignore_eos = true;
    harness.add(request);
  }
  ASSERT_NO_FATAL_FAILURE(harness.run(100));
  EXPECT_EQ(harness.stats().wasted_rows, 0);
  EXPECT_EQ(harness.rows(), 8 * (5 + 10 - 1));
}

TEST(Scheduler, AStopTokenWastesOneRow) {
  Harness harness(limits_of(100, 4), 64, 1, 1);  // every token is EOS
  harness.add(request_of(1, 5, 10));
  ASSERT_NO_FATAL_FAILURE(harness.run(100));
  EXPECT_EQ(harness.stats().wasted_rows, 1);
  EXPECT_EQ(harness.outcome(1).tokens, (std::vector<int32_t>{fake::kEos}));
  EXPECT_EQ(harness.outcome(1).finish, FinishReason::kStop);
}

TEST(Scheduler, LongPromptsAreChunkedAndDecodesGoOn) {
  Harness harness(limits_of(1000, 4), 16, 4, 1000000);
  harness.add(request_of(1, 4, 200));
  for (int i = 0; i < 3; ++i) harness.step();
  harness.add(request_of(2, 900, 4));
  const size_t before = harness.outcome(1).tokens.size();
  for (int i = 0; i < 20; ++i) harness.step();
  EXPECT_EQ(harness.outcome(1).tokens.size(), before + 20);
  ASSERT_NO_FATAL_FAILURE(harness.run(1000));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
}

TEST(Scheduler, OnlyScoringChoosesNoToken) {
  Harness harness(limits_of(20, 4), 8, 2, 40);
  Request scored = request_of(1, 30, 0);
  scored.sampling.prompt_logprobs = 2;
  harness.add(scored);
  harness.add(request_of(2, 30, 0));  // nothing to compute at all
  Request one = request_of(3, 1, 0);
  one.sampling.prompt_logprobs = 0;
  harness.add(one);
  ASSERT_NO_FATAL_FAILURE(harness.run(20));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  EXPECT_EQ(harness.outcome(1).prompt_logprobs.size(), 29u);
  EXPECT_EQ(harness.rows(), 29);
}

TEST(Scheduler, PagesStayUntilNoStepRefersToThem) {
  Harness harness(limits_of(10, 4), 16, 2, 1000000);
  harness.add(request_of(1, 8, 20));
  ASSERT_TRUE(harness.step());  // launched, not committed
  harness.cancel(1);
  EXPECT_EQ(harness.outcome(1).finish, FinishReason::kAbort);
  EXPECT_EQ(harness.scheduler().pool().used_pages(), 2);
  ASSERT_TRUE(harness.step());
  EXPECT_EQ(harness.scheduler().pool().used_pages(), 0);
  ASSERT_NO_FATAL_FAILURE(harness.run(1));
}

TEST(Scheduler, LowerPriorityValueIsServedFirst) {
  Harness harness(limits_of(100, 4), 8, 1, 1000000);
  for (RequestId id = 1; id <= 3; ++id) {
    Request request = request_of(id, 4, 5);
    request.sampling.priority = id == 3 ? -1 : 0;
    harness.add(request);
  }
  while (!harness.outcome(3).finish) ASSERT_TRUE(harness.step());
  EXPECT_TRUE(harness.outcome(1).tokens.empty());
  ASSERT_NO_FATAL_FAILURE(harness.run(100));
}

// A long prompt at the head of the queue must not be overtaken for ever by short ones behind it.
TEST(Scheduler, NobodyStarves) {
  const EngineLimits limits = limits_of(50, 4);
  Harness harness(limits, 32, 8, 1000000);
  RequestId id = 0;
  for (int i = 0; i < 8; ++i) harness.add(request_of(++id, 4, 12));
  const RequestId large = ++id;
  harness.add(request_of(large, 180, 10));
  int steps = 0;
  while (!harness.outcome(large).finish) {
    if (harness.stats().waiting < 8) harness.add(request_of(++id, 4, 12));
    ASSERT_TRUE(harness.step());
    ASSERT_LT(++steps, 200) << "starved";
  }
}

// Requests whose outputs end by EOS although max_tokens is the whole context: admission must
// learn their length, fill the cache and rarely preempt.
TEST(Scheduler, AdmissionFillsMemoryWithFewPreemptions) {
  const EngineLimits limits = limits_of(2000, 16);
  Harness harness(limits, 512, 256, 200);
  for (RequestId id = 1; id <= 1500; ++id) harness.add(request_of(id, 100, std::nullopt));
  double used = 0;
  int64_t samples = 0;
  while (harness.stats().waiting > 0) {
    ASSERT_TRUE(harness.step());
    if (harness.steps() > 300) {
      used += static_cast<double>(harness.scheduler().pool().used_pages());
      ++samples;
    }
  }
  ASSERT_NO_FATAL_FAILURE(harness.run(20000));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  const double usage = used / static_cast<double>(samples) / 2000;
  const SchedulerStats stats = harness.stats();
  RecordProperty("kv_usage_percent", static_cast<int>(usage * 100));
  RecordProperty("preemptions", static_cast<int>(stats.preemptions));
  EXPECT_GT(usage, 0.85);
  EXPECT_LT(stats.recomputed_rows, harness.rows() / 50);
}

/// Sequences that run after some steps of a first wave of requests for `max_tokens`.
int64_t first_wave(int64_t max_tokens) {
  Harness harness(limits_of(2000, 16), 512, 256, 1000000);
  for (RequestId id = 1; id <= 200; ++id) harness.add(request_of(id, 30, max_tokens));
  for (int step = 0; step < 40; ++step) EXPECT_TRUE(harness.step());
  return harness.stats().running;
}

// Nothing has finished yet, and what max_tokens allows is not what will come.
TEST(Scheduler, AFirstWaveIsAdmittedWithoutAskingMaxTokens) {
  EXPECT_EQ(first_wave(50), first_wave(1500));
}

// All arrive at once and would outgrow the cache at the same time: a third of the rows was computed
// twice when admission hoped for short outputs.
TEST(Scheduler, AFirstWaveDoesNotOutgrowMemory) {
  Harness harness(limits_of(2000, 16), 512, 256, 1000000);
  for (RequestId id = 1; id <= 150; ++id) harness.add(request_of(id, 128, 400));
  ASSERT_NO_FATAL_FAILURE(harness.run(20000));
  ASSERT_NO_FATAL_FAILURE(harness.expect_outcomes());
  EXPECT_LT(harness.stats().recomputed_rows, harness.rows() / 20);
}

}  // namespace
}  // namespace nanoflow
