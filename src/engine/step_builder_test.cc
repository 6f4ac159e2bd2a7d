#include "engine/step_builder.h"

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

using Ids = std::vector<int32_t>;

Sequence sequence_of(Request request, int64_t max_output = 10) {
  return Sequence(std::move(request), max_output, 99, 0, 0);
}

class StepBuilderTest : public ::testing::Test {
 protected:
  StepBuilderTest() { batch_.clear(); }

  AppendedSamples append(Sequence& sequence, int64_t rows) {
    EXPECT_TRUE(sequence.pages.grow(pool_, sequence.num_rows + rows));
    return append_rows(batch_, sequence, rows, pool_);
  }

  PagePool pool_{16, 4};
  StepBatch batch_;
};

TEST_F(StepBuilderTest, ARowPerTokenAndASampleAtTheEnd) {
  Sequence s = sequence_of({.prompt = {10, 11, 12, 13, 14}});
  s.slot = 3;
  EXPECT_FALSE(append(s, 4).chooses_token);
  EXPECT_EQ(batch_.token_ids, (Ids{10, 11, 12, 13}));
  EXPECT_TRUE(batch_.sampling.empty());
  s.num_rows = 4;
  batch_.clear();
  EXPECT_TRUE(append(s, 1).chooses_token);
  EXPECT_EQ(batch_.token_ids, (Ids{14}));
  EXPECT_EQ(batch_.positions, (Ids{4}));
  EXPECT_EQ(batch_.kv_page_indptr, (Ids{0, 2}));
  EXPECT_EQ(batch_.kv_last_page_len, (Ids{1}));
  EXPECT_EQ(batch_.sample_rows, (Ids{0}));
  EXPECT_EQ(batch_.sampling[0].position, 5);
  EXPECT_EQ(batch_.sampling[0].slot, 3);
  EXPECT_EQ(batch_.sampling[0].seed, 99u);
  EXPECT_EQ(batch_.header.num_rows, 1);
  EXPECT_EQ(batch_.header.num_seqs, 1);
  EXPECT_EQ(batch_.header.num_samples, 1);
}

TEST_F(StepBuilderTest, APendingTokenIsTakenFromItsSlot) {
  Request request{.prompt = {10, 11}};
  request.sampling.presence_penalty = 1;
  Sequence s = sequence_of(request);
  s.slot = 2;
  s.tokens.push_back(20);
  s.num_pending = 1;
  s.num_rows = 3;
  append(s, 1);
  EXPECT_EQ(batch_.token_ids, (Ids{~2}));
  const SamplingRow& row = batch_.sampling[0];
  EXPECT_EQ(row.position, 4);
  EXPECT_EQ(row.pending_slot, 2);
  EXPECT_EQ(batch_.history, (Ids{20}));  // presence looks at the output only
  EXPECT_EQ(row.history_begin, row.history_output_begin);
}

TEST_F(StepBuilderTest, RepetitionPenaltyLooksAtThePromptToo) {
  Request request{.prompt = {10, 11}};
  request.sampling.repetition_penalty = 1.5;
  Sequence s = sequence_of(request);
  s.slot = 0;
  s.tokens.push_back(20);
  s.num_rows = 2;
  append(s, 1);
  EXPECT_EQ(batch_.history, (Ids{10, 11, 20}));
  EXPECT_EQ(batch_.sampling[0].history_output_begin, 2);
  EXPECT_EQ(batch_.sampling[0].history_end, 3);
  EXPECT_EQ(batch_.sampling[0].pending_slot, -1);
}

TEST_F(StepBuilderTest, StopIdsAreForbiddenBelowMinTokens) {
  Request request{.prompt = {10}};
  request.eos_token_ids = Ids{7, 5};
  request.sampling.min_tokens = 1;
  request.sampling.stop_token_ids = {6, 7};
  request.sampling.logit_bias = {{1, 2.0F}};
  Sequence s = sequence_of(request);
  s.slot = 0;
  append(s, 1);
  EXPECT_EQ(batch_.bias_ids, (Ids{5, 6, 7, 1}));
  EXPECT_EQ(batch_.bias_values.back(), 2.0F);
  EXPECT_EQ(batch_.sampling[0].forbid_eos_begin, 0);
  EXPECT_EQ(batch_.sampling[0].bias_begin, 3);
  EXPECT_EQ(batch_.sampling[0].bias_end, 4);
  s.num_rows = 1;
  s.num_pending = 1;  // one token on its way: min_tokens is reached
  batch_.clear();
  append(s, 1);
  EXPECT_EQ(batch_.bias_ids, (Ids{1}));
  EXPECT_EQ(batch_.sampling[0].forbid_eos_begin, batch_.sampling[0].bias_begin);
}

TEST_F(StepBuilderTest, IgnoredEosIsNotForbidden) {
  Request request{.prompt = {10}};
  request.eos_token_ids = Ids{7};
  request.sampling.min_tokens = 5;
  request.sampling.ignore_eos = true;
  Sequence s = sequence_of(request);
  s.slot = 0;
  append(s, 1);
  EXPECT_TRUE(batch_.bias_ids.empty());
  EXPECT_FALSE(s.stops_at(7));
}

TEST_F(StepBuilderTest, PromptRowsScoreTheirSuccessorOnce) {
  Request request{.prompt = {10, 11, 12, 13}};
  request.sampling.prompt_logprobs = 2;
  Sequence s = sequence_of(request);
  s.slot = 0;
  s.num_scored = 1;  // token 11 was scored before a preemption
  const AppendedSamples samples = append(s, 4);
  EXPECT_EQ(samples.num_targets, 2);
  EXPECT_TRUE(samples.chooses_token);
  EXPECT_EQ(batch_.sample_rows, (Ids{1, 2, 3}));
  EXPECT_EQ(batch_.sampling[0].target, 12);
  EXPECT_EQ(batch_.sampling[1].target, 13);
  EXPECT_EQ(batch_.sampling[1].position, 3);
  EXPECT_EQ(batch_.sampling[1].slot, -1);
  EXPECT_EQ(batch_.sampling[2].target, -1);
}

TEST_F(StepBuilderTest, TinyTemperaturesAreGreedy) {
  Request request{.prompt = {10}};
  request.sampling.temperature = 1e-30;
  request.sampling.top_k = -1;
  Sequence s = sequence_of(request);
  s.slot = 0;
  append(s, 1);
  EXPECT_EQ(batch_.sampling[0].temperature, 0.0F);
  EXPECT_EQ(batch_.sampling[0].top_k, 0);
}

TEST(Sequence, RowsOfALife) {
  Request request{.prompt = {1, 2, 3}};
  EXPECT_EQ(sequence_of(request, 5).total_rows(), 7);
  EXPECT_EQ(sequence_of(request, 0).total_rows(), 0);
  request.sampling.prompt_logprobs = 0;
  EXPECT_EQ(sequence_of(request, 0).total_rows(), 2);
  Sequence s = sequence_of(request, 1);
  EXPECT_EQ(s.ready_rows(), 3);
  s.num_rows = 3;
  s.num_pending = 1;
  EXPECT_EQ(s.ready_rows(), 0);  // its only output token is never a row
}

}  // namespace
}  // namespace nanoflow
