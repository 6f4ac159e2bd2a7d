// Constrained sequences among others, on a fake device: masks follow the output, everybody else is
// served as if they were not there.
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "engine/fake_runner.h"
#include "engine/scheduler.h"

namespace nanoflow {
namespace {

/// Token n of an output is one of ten that n names; it may end after `least` tokens and must after
/// `most`.
struct Ladder {
  int64_t least = 3;
  int64_t most = 6;
  int64_t breaks_after = -1;  ///< tokens after which no mask can be made
  static bool fits(int32_t token, int64_t n) { return token >= 100 && token % 100 == n % 100; }
};

class LadderState final : public ConstraintState {
 public:
  LadderState(const Ladder& ladder, std::span<const int32_t> end_ids)
      : ladder_(ladder), ends_(end_ids.begin(), end_ids.end()) {}

  bool fill_mask(std::span<int32_t> mask) override {
    if (count_ == ladder_.breaks_after) return false;
    for (auto& word : mask) word = 0;
    for (int32_t id = 0; id < fake::kVocab; ++id) {
      if (!allows(id)) continue;
      auto& word = mask[static_cast<size_t>(id / 32)];
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | 1U << (id % 32));
    }
    return true;
  }
  bool accept(int32_t token) override {
    if (!allows(token)) return false;
    if (ends_.count(token) > 0) ended_ = true;
    ++count_;
    if (ends_.empty() && count_ >= ladder_.least) ended_ = true;
    return true;
  }
  [[nodiscard]] bool ended() const override { return ended_; }

 private:
  [[nodiscard]] bool allows(int32_t id) const {
    if (ends_.count(id) > 0) return count_ >= ladder_.least;
    return count_ < ladder_.most && Ladder::fits(id, count_);
  }

  Ladder ladder_;
  std::set<int32_t> ends_;
  int64_t count_ = 0;
  bool ended_ = false;
};

class LadderConstraint final : public TokenConstraint {
 public:
  explicit LadderConstraint(const Ladder& ladder) : ladder_(ladder) {}
  [[nodiscard]] std::unique_ptr<ConstraintState> start(
      std::span<const int32_t> end_ids) const override {
    return std::make_unique<LadderState>(ladder_, end_ids);
  }

 private:
  Ladder ladder_;
};

struct Output {
  std::vector<int32_t> tokens;
  size_t logprobs = 0;
  std::optional<FinishReason> finish;
  std::optional<int32_t> stop_token;
  std::string error;
  ErrorCode error_code = ErrorCode::kInternal;
  int64_t preemptions = 0;
  int64_t steps = 0;  ///< launched between its first token and its end
};

/// Runs all requests together, as the engine's loop does.
std::map<RequestId, Output> run(const std::vector<Request>& requests, int64_t num_pages = 1024) {
  EngineLimits limits = fake::small_limits();
  limits.num_pages = num_pages;
  constexpr int64_t kSeqs = 16;
  Scheduler scheduler({.max_num_batched_tokens = 64,
                       .max_num_seqs = kSeqs,
                       .num_pages = limits.num_pages,
                       .page_size = limits.page_size,
                       .vocab_size = fake::kVocab});
  fake::FakeRunner device(limits, kSeqs);
  std::map<RequestId, Output> outputs;
  int64_t steps = 1;  // the clock
  const auto collect = [&] {
    for (TokenEvent& event : scheduler.take_events()) {
      Output& output = outputs[event.request_id];
      output.tokens.insert(output.tokens.end(), event.tokens.begin(), event.tokens.end());
      output.logprobs += event.logprobs.size();
      EXPECT_FALSE(output.finish.has_value());
      output.finish = event.finish;
      output.stop_token = event.stop_token;
      output.error = event.error;
      output.error_code = event.error_code;
      output.preemptions = event.num_preemptions;
      output.steps = event.times.event_ns - event.times.first_token_ns;
    }
  };
  int64_t arrival = 0;
  for (Request request : requests) {
    const int64_t most = *request.sampling.max_tokens;
    if (!request.eos_token_ids) request.eos_token_ids = {fake::kEos};
    scheduler.add(std::make_unique<Sequence>(std::move(request), most, 1, arrival++, 0), 1);
  }
  collect();
  std::array<StepBatch, 2> batches;
  size_t next = 0;
  for (int i = 0; i < 2000; ++i) {
    const bool scheduled = scheduler.schedule(batches[next], steps);
    if (scheduled) {
      device.launch(batches[next]);
      next ^= 1;
      ++steps;
    }
    if (scheduler.steps_in_flight() > (scheduled ? 1 : 0)) {
      scheduler.commit(device.results(), steps);
      collect();
    } else if (!scheduled) {
      break;
    }
    EXPECT_EQ(scheduler.check_integrity(), "");
  }
  EXPECT_TRUE(scheduler.idle());
  return outputs;
}

Request request_of(RequestId id, int64_t max_tokens) {
  Request request{.id = id, .prompt = {1, 2, static_cast<int32_t>(10 + id)}};
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

Request constrained(RequestId id, int64_t max_tokens, const Ladder& ladder = {}) {
  Request request = request_of(id, max_tokens);
  request.constraint = std::make_shared<LadderConstraint>(ladder);
  return request;
}

void expect_ladder(const Output& output, const Ladder& ladder = {}) {
  ASSERT_EQ(output.finish, FinishReason::kStop) << output.error;
  EXPECT_EQ(output.stop_token, fake::kEos);
  const auto count = static_cast<int64_t>(output.tokens.size()) - 1;
  EXPECT_GE(count, ladder.least);
  EXPECT_LE(count, ladder.most);
  for (int64_t n = 0; n < count; ++n)
    EXPECT_TRUE(Ladder::fits(output.tokens[static_cast<size_t>(n)], n)) << n;
}

TEST(Constraint, OutputsKeepToItAndOthersAreNeitherSlowedNorChanged) {
  std::vector<Request> requests, others;
  for (RequestId id = 1; id <= 6; ++id) {
    Request request = id % 2 == 0 ? constrained(id, 20) : request_of(id, 20);
    request.sampling.logprobs = 2;
    request.sampling.ignore_eos = id % 2 == 1;
    if (id % 2 == 1) others.push_back(request);
    requests.push_back(std::move(request));
  }
  auto together = run(requests);
  auto alone = run(others);
  for (RequestId id = 1; id <= 6; ++id) {
    EXPECT_EQ(together[id].logprobs, together[id].tokens.size());
    if (id % 2 == 0) {
      expect_ladder(together[id]);
    } else {
      EXPECT_EQ(together[id].tokens, alone[id].tokens);
      EXPECT_EQ(together[id].steps, alone[id].steps);
    }
  }
}

TEST(Constraint, PreemptionKeepsHowFarAnOutputHasCome) {
  const Ladder ladder{.least = 20, .most = 24};
  std::vector<Request> requests;
  // Short ones first, so that the long ones are expected to be short, too.
  for (RequestId id = 1; id <= 40; ++id)
    requests.push_back(constrained(id, 60, id <= 30 ? Ladder{.least = 1, .most = 2} : ladder));
  int64_t preemptions = 0;
  for (const auto& [id, output] : run(requests, 17)) {
    expect_ladder(output, id <= 30 ? Ladder{.least = 1, .most = 2} : ladder);
    preemptions += output.preemptions;
  }
  EXPECT_GT(preemptions, 0);
}

TEST(Constraint, MinTokensDelaysTheEndButNotBeyondTheConstraint) {
  Request delayed = constrained(1, 20, {.least = 1, .most = 8});
  delayed.sampling.min_tokens = 5;
  Request impossible = constrained(2, 20, {.least = 1, .most = 3});
  impossible.sampling.min_tokens = 12;
  auto outputs = run({delayed, impossible});
  expect_ladder(outputs[1], {.least = 5, .most = 8});
  expect_ladder(outputs[2], {.least = 3, .most = 3});
}

TEST(Constraint, EosEndsItEvenWhenIgnored) {
  Request request = constrained(1, 50);
  request.sampling.ignore_eos = true;
  expect_ladder(run({request})[1]);
}

TEST(Constraint, WithoutEosItEndsWhereItMay) {
  Request request = constrained(1, 50);
  request.eos_token_ids.emplace();
  const Output output = run({request})[1];
  EXPECT_EQ(output.finish, FinishReason::kStop);
  EXPECT_EQ(output.stop_token, std::nullopt);
  EXPECT_EQ(output.tokens.size(), 3U);
}

TEST(Constraint, LengthAndStopIdsStillEndIt) {
  Request stopped = constrained(2, 50);
  for (int32_t id = 102; id < fake::kVocab; id += 100)
    stopped.sampling.stop_token_ids.push_back(id);
  auto outputs = run({constrained(1, 2), stopped});
  EXPECT_EQ(outputs[1].finish, FinishReason::kLength);
  EXPECT_EQ(outputs[1].tokens.size(), 2U);
  EXPECT_EQ(outputs[2].finish, FinishReason::kStop);
  EXPECT_EQ(outputs[2].tokens.size(), 3U);
}

TEST(Constraint, OneThatFailsEndsItsOwnRequestOnly) {
  auto outputs = run({constrained(1, 20, {.breaks_after = 0}), constrained(2, 20),
                      constrained(3, 20, {.breaks_after = 2}), request_of(4, 5)});
  for (const RequestId id : {1, 3}) {
    EXPECT_EQ(outputs[id].finish, FinishReason::kError);
    EXPECT_FALSE(outputs[id].error.empty());
    EXPECT_EQ(outputs[id].error_code, ErrorCode::kInvalidArgument) << "it is the request's fault";
  }
  EXPECT_EQ(outputs[3].tokens.size(), 2U);
  expect_ladder(outputs[2]);
  EXPECT_TRUE(outputs[4].finish == FinishReason::kLength ||
              outputs[4].finish == FinishReason::kStop);
}

}  // namespace
}  // namespace nanoflow
