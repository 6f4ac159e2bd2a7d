// Sampling: exact agreement of two backends, the exact distribution, independence of the batch.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bounds.h"
#include "harness.h"
#include "ops/sampling_noise.h"

namespace nanoflow::testing_ops {
namespace {

enum Tensor : size_t {
  kIds,
  kLogprobs,
  kRanks,
  kTopIds,
  kTopLogprobs,
  kLogits,
  kSampling,
  kHistory,
  kBiasIds,
  kBiasValues,
  kLastToken,
  kMasks,
};

HostTensor sampling_tensor(const std::vector<SamplingRow>& rows) {
  HostTensor t(DType::kU8, static_cast<int64_t>(rows.size()), sizeof(SamplingRow));
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(t.bytes.data() + t.element_index(static_cast<int64_t>(i), 0), &rows[i],
                sizeof(SamplingRow));
  return t;
}

/// A case that samples rows [0, rows.size()) of `logits`.
Case sample_case(const HostTensor& logits, const std::vector<SamplingRow>& rows,
                 const std::vector<int32_t>& history = {0},
                 const std::vector<int32_t>& bias_ids = {0},
                 const std::vector<double>& bias_values = {0},
                 const std::vector<int32_t>& last_token = {0},
                 const HostTensor& masks = HostTensor(DType::kI32, 1, 1)) {
  const auto n = static_cast<int64_t>(rows.size());
  Case c;
  HostTensor values(DType::kF32, static_cast<int64_t>(bias_values.size()), 1);
  for (size_t i = 0; i < bias_values.size(); ++i)
    values.set(static_cast<int64_t>(i), 0, bias_values[i]);
  c.tensors = {HostTensor(DType::kI32, n, 1),
               HostTensor(DType::kF32, n, 1),
               HostTensor(DType::kI32, n, 1),
               HostTensor(DType::kI32, n, kMaxTopLogprobs),
               HostTensor(DType::kF32, n, kMaxTopLogprobs),
               logits,
               sampling_tensor(rows),
               int_vector(history),
               int_vector(bias_ids),
               values,
               int_vector(last_token),
               masks};
  c.rows = {0, n};
  c.bind = [n](const Bound& b) {
    SampleArgs args{.ids = b.vector(kIds),
                    .logprobs = b.vector(kLogprobs),
                    .ranks = b.vector(kRanks),
                    .top_ids = b.view(kTopIds),
                    .top_logprobs = b.view(kTopLogprobs),
                    .logits = b.view(kLogits),
                    .rows = {0, n}};
    args.step.sampling = b.view(kSampling);
    args.step.history = b.vector(kHistory);
    args.step.bias_ids = b.vector(kBiasIds);
    args.step.bias_values = b.vector(kBiasValues);
    args.step.last_token = b.vector(kLastToken);
    args.step.masks = b.view(kMasks);
    return args;
  };
  const double vocab = static_cast<double>(logits.cols);
  const ElementBound logprob_bound = [=](int64_t, int64_t, double want) {
    return 8 * kEps32 * (std::abs(want) + std::sqrt(vocab) + 32);
  };
  const RowRange all{0, n};
  c.outputs = {{kIds, all, exact},
               {kLogprobs, all, logprob_bound},
               {kRanks, all, exact},
               {kTopIds, all, exact},
               {kTopLogprobs, all, logprob_bound},
               {kLastToken, {0, static_cast<int64_t>(last_token.size())}, exact}};
  return c;
}

class SampleOps : public testing::Test {
 protected:
  SamplingRow random_row() {
    SamplingRow row;
    row.temperature =
        random.below(4) == 0 ? 0.0f : 0.2f + static_cast<float>(random.below(20)) / 10;
    row.top_k = random.below(2) == 0 ? 0 : static_cast<int32_t>(1 + random.below(60));
    row.top_p = random.below(2) == 0 ? 1.0f : static_cast<float>(random.below(100)) / 100;
    row.min_p = random.below(3) == 0 ? static_cast<float>(random.below(50)) / 100 : 0.0f;
    row.num_logprobs = static_cast<int32_t>(random.below(22)) - 1;
    row.seed = random.engine()();
    row.position = static_cast<int32_t>(random.below(1 << 30));
    return row;
  }
  Sides sides = make_sides();
  Random random;
};

TEST_F(SampleOps, BackendsAgreeOnEveryCombinationOfLimits) {
  for (const int64_t vocab : {1, 2, 15, 17, 300, 5000, 49152}) {
    std::vector<SamplingRow> rows;
    for (int i = 0; i < (vocab > 10000 ? 24 : 80); ++i) rows.push_back(random_row());
    const HostTensor logits =
        random.normals(DType::kF32, static_cast<int64_t>(rows.size()), vocab, vocab % 3, 4);
    expect_same(sides, sample_case(logits, rows), fmt::format("vocabulary {}", vocab),
                random.seed());
  }
}

TEST_F(SampleOps, LimitsThatEndAmongManyEqualScoresKeepTheLowestIds) {
  for (const int64_t distinct : {2, 40}) {
    std::vector<SamplingRow> rows;
    for (int i = 0; i < 40; ++i) {
      rows.push_back(random_row());
      if (i % 3 == 0) rows.back().top_k = static_cast<int32_t>(1 + random.below(20000));
    }
    HostTensor logits(DType::kF32, 40, 20011);
    for (int64_t t = 0; t < 40; ++t)
      for (int64_t i = 0; i < logits.cols; ++i)
        logits.set(t, i, i % 7 == 0 ? -INFINITY : static_cast<double>(random.below(distinct)) / 4);
    expect_same(sides, sample_case(logits, rows), fmt::format("{} distinct scores", distinct),
                random.seed());
  }
}

TEST_F(SampleOps, BiasForbiddenIdsAndPenalties) {
  const std::vector<int32_t> history = {1, 2, 2, 3, 700, 4, 4, 4, 5, 1};
  const std::vector<int32_t> bias_ids = {7, 8, 9, 3, 10, 5000, 11};
  const std::vector<double> bias_values = {0, 0, 0, -2, 100, 3, -100};
  std::vector<SamplingRow> rows;
  for (int i = 0; i < 200; ++i) {
    SamplingRow row = random_row();
    row.forbid_eos_begin = static_cast<int32_t>(random.below(4));
    row.bias_begin = 3;
    row.bias_end = 3 + static_cast<int32_t>(random.below(5));
    row.history_begin = static_cast<int32_t>(random.below(3));
    row.history_output_begin = row.history_begin + static_cast<int32_t>(random.below(4));
    row.history_end = row.history_output_begin + static_cast<int32_t>(random.below(4));
    row.repetition_penalty = 0.5f + static_cast<float>(random.below(20)) / 10;
    row.presence_penalty = static_cast<float>(random.below(40)) / 10 - 2;
    row.frequency_penalty = static_cast<float>(random.below(40)) / 10 - 2;
    row.slot = i;
    row.pending_slot = random.below(2) == 0 ? -1 : i;
    rows.push_back(row);
  }
  std::vector<int32_t> last_token;
  for (size_t i = 0; i < rows.size(); ++i) last_token.push_back(static_cast<int32_t>(i % 13));
  const HostTensor logits = random.normals(DType::kF32, 200, 64, 0, 3);
  expect_same(sides, sample_case(logits, rows, history, bias_ids, bias_values, last_token),
              "penalties", random.seed());
}

TEST_F(SampleOps, MasksAllowTheirTokensOnlyWhateverElseTheRowAsksFor) {
  for (const int64_t vocab : {1, 31, 32, 33, 64, 5000, 20011}) {
    const int64_t rows = 40, words = (vocab + 31) / 32;
    HostTensor masks(DType::kI32, rows, words, 3);
    std::vector<std::vector<bool>> allowed(rows, std::vector<bool>(static_cast<size_t>(vocab)));
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t w = 0; w < words; ++w) {
        uint32_t word = 0;
        for (int64_t i = w * 32; i < std::min(vocab, w * 32 + 32); ++i) {
          // Row m allows about one token in m + 1; a token at least.
          const bool set = random.below(m + 1) == 0 || i == m % vocab;
          allowed[static_cast<size_t>(m)][static_cast<size_t>(i)] = set;
          if (set) word |= 1U << (i - w * 32);
        }
        masks.set(m, w, static_cast<double>(static_cast<int32_t>(word)));
      }
    std::vector<SamplingRow> all;
    for (int64_t t = 0; t < rows; ++t) {
      all.push_back(random_row());
      all.back().mask = t % 5 == 0 ? -1 : static_cast<int32_t>((t * 7) % rows);
      if (t % 3 == 0) all.back().bias_end = 2;
      if (t % 4 == 0) all.back().presence_penalty = -2;
      if (t % 4 == 0) all.back().history_end = 2;
    }
    const HostTensor logits = random.normals(DType::kF32, rows, vocab, vocab % 3, 4);
    const std::vector<int32_t> ids = {0, static_cast<int32_t>(vocab - 1)};
    const Case c = sample_case(logits, all, ids, ids, {100, 50}, {0}, masks);
    expect_same(sides, c, fmt::format("masks over {} tokens", vocab), random.seed());
    const auto after = run_case(*sides.tested, c);
    for (int64_t t = 0; t < rows; ++t) {
      const int32_t mask = all[static_cast<size_t>(t)].mask;
      const auto id = static_cast<size_t>(after[kIds].get(t, 0));
      if (mask >= 0) {
        EXPECT_TRUE(allowed[static_cast<size_t>(mask)][id]) << "row " << t << ", token " << id;
      }
    }
  }
}

TEST_F(SampleOps, TargetsReportTheirLogprobAndStoreNothing) {
  std::vector<SamplingRow> rows;
  for (int i = 0; i < 40; ++i) {
    SamplingRow row = random_row();
    row.target = static_cast<int32_t>(random.below(100));
    row.slot = 0;
    rows.push_back(row);
  }
  const HostTensor logits = random.normals(DType::kF32, 40, 100, 0, 2);
  Case c = sample_case(logits, rows, {0}, {0}, {0}, {77});
  expect_same(sides, c, "targets", random.seed());
  const std::vector<HostTensor> after = run_case(*sides.tested, c);
  EXPECT_EQ(after[kLastToken].get(0, 0), 77);
  for (int64_t t = 0; t < 40; ++t) {
    const auto target = static_cast<int64_t>(rows[static_cast<size_t>(t)].target);
    double total = 0, above = 0;
    for (int64_t i = 0; i < 100; ++i) {
      total += std::exp(logits.get(t, i));
      above += logits.get(t, i) > logits.get(t, target) ? 1 : 0;
    }
    EXPECT_EQ(after[kIds].get(t, 0), static_cast<double>(target));
    EXPECT_NEAR(after[kLogprobs].get(t, 0), logits.get(t, target) - std::log(total), 1e-5);
    EXPECT_EQ(after[kRanks].get(t, 0), above);
  }
}

TEST_F(SampleOps, NanInfinityAndTiesHaveDefinedResults) {
  HostTensor logits(DType::kF32, 6, 40);
  for (int64_t t = 0; t < 6; ++t)
    for (int64_t i = 0; i < 40; ++i) logits.set(t, i, t == 0 ? std::nan("") : 1.0);
  for (int64_t i = 0; i < 40; ++i) logits.set(1, i, -INFINITY);
  logits.set(2, 5, std::nan(""));
  logits.set(2, 33, 2);
  logits.set(3, 21, INFINITY);
  for (int64_t i = 0; i < 40; i += 2) logits.set(4, i, -INFINITY);
  for (const float temperature : {0.0f, 0.7f}) {
    std::vector<SamplingRow> rows(6);
    for (SamplingRow& row : rows) row.temperature = temperature;
    rows[5].top_k = 3;
    rows[4].top_p = 0.5f;
    rows[0].min_p = 0.1f;
    const Case c = sample_case(logits, rows);
    expect_same(sides, c, "special values", random.seed());
    const auto after = run_case(*sides.tested, c);
    EXPECT_EQ(after[kIds].get(0, 0), 0);
    EXPECT_EQ(after[kIds].get(3, 0), 21);
    if (temperature > 0) continue;
    EXPECT_EQ(after[kIds].get(2, 0), 33);
    EXPECT_EQ(after[kIds].get(4, 0), 1);
    EXPECT_EQ(after[kIds].get(5, 0), 0);
  }
}

TEST_F(SampleOps, TheSameSeedDrawsTheSameTokenWhateverTheBatch) {
  const int64_t rows = 24, vocab = 1000;
  std::vector<SamplingRow> all;
  for (int64_t t = 0; t < rows; ++t) all.push_back(random_row());
  const HostTensor logits = random.normals(DType::kF32, rows, vocab, 0, 2);
  const auto together = run_case(*sides.tested, sample_case(logits, all));
  for (int64_t t = 0; t < rows; ++t) {
    HostTensor one(DType::kF32, 1, vocab);
    for (int64_t i = 0; i < vocab; ++i) one.set(0, i, logits.get(t, i));
    const auto alone = run_case(*sides.tested, sample_case(one, {all[static_cast<size_t>(t)]}));
    EXPECT_EQ(alone[kIds].get(0, 0), together[kIds].get(t, 0)) << t;
  }
}

TEST_F(SampleOps, ContinuingSequencesSeeTheirPendingToken) {
  // Token 2 wins until it is in the history: first only as the pending token of slot 1.
  HostTensor logits(DType::kF32, 2, 4);
  for (int64_t t = 0; t < 2; ++t)
    for (int64_t i = 0; i < 4; ++i) logits.set(t, i, i == 2 ? 1.0 : 0.5);
  std::vector<SamplingRow> rows(2);
  for (SamplingRow& row : rows) row.presence_penalty = 1;
  rows[1].pending_slot = 1;
  const auto after = run_case(*sides.tested, sample_case(logits, rows, {0}, {0}, {0}, {0, 2}));
  EXPECT_EQ(after[kIds].get(0, 0), 2);
  EXPECT_EQ(after[kIds].get(1, 0), 0);
}

/// Chi-squared statistic's 1 - 1e-6 quantile for `freedom` degrees (Wilson & Hilferty 1931).
double chi_squared_limit(double freedom) {
  const double a = 2 / (9 * freedom);
  return freedom * std::pow(1 - a + 4.75 * std::sqrt(a), 3);
}

/// The exact probabilities that `row` asks for, in double.
std::vector<double> exact_distribution(const std::vector<double>& logits, const SamplingRow& row) {
  std::vector<size_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  std::stable_sort(ids.begin(), ids.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (row.top_k > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(row.top_k)));
  std::vector<double> p(logits.size(), 0.0);
  double total = 0;
  for (const size_t id : ids) total += p[id] = std::exp(logits[id] / row.temperature);
  double sum = 0;
  for (const size_t id : ids) {
    const bool kept = sum < row.top_p * total && p[id] >= row.min_p * p[ids[0]];
    sum += p[id];
    if (!kept) p[id] = 0;
  }
  const double kept_total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= kept_total;
  return p;
}

TEST_F(SampleOps, DrawsFollowTheExactDistribution) {
  constexpr int64_t kDraws = 20000, kVocab = 50;
  std::vector<double> logits;
  for (int64_t i = 0; i < kVocab; ++i) logits.push_back(std::sin(static_cast<double>(i) * 1.7) * 2);
  struct Limits {
    float temperature, top_p, min_p;
    int32_t top_k;
  };
  for (const Limits& l : {Limits{1, 1, 0, 0},
                          {0.6f, 1, 0, 0},
                          {1.3f, 0.8f, 0, 0},
                          {1, 1, 0, 7},
                          {1, 0.9f, 0, 20},
                          {1, 1, 0.2f, 0},
                          {2, 0.95f, 0.1f, 30}}) {
    SamplingRow row{.temperature = l.temperature, .top_p = l.top_p, .min_p = l.min_p};
    row.top_k = l.top_k;
    row.seed = 20260101;
    std::vector<SamplingRow> rows(kDraws, row);
    HostTensor many(DType::kF32, kDraws, kVocab);
    for (int64_t t = 0; t < kDraws; ++t) {
      rows[static_cast<size_t>(t)].position = static_cast<int32_t>(t);
      for (int64_t i = 0; i < kVocab; ++i) many.set(t, i, logits[static_cast<size_t>(i)]);
    }
    const auto after = run_case(*sides.tested, sample_case(many, rows));
    std::vector<double> counts(kVocab, 0.0);
    for (int64_t t = 0; t < kDraws; ++t) ++counts[static_cast<size_t>(after[kIds].get(t, 0))];
    const std::vector<double> p = exact_distribution(logits, row);
    double statistic = 0, cells = 0;
    for (size_t i = 0; i < kVocab; ++i) {
      const double expected = p[i] * kDraws;
      if (p[i] == 0) {
        EXPECT_EQ(counts[i], 0) << i;
        continue;
      }
      statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++cells;
    }
    EXPECT_LT(statistic, chi_squared_limit(cells - 1)) << "temperature " << l.temperature;
  }
}

TEST_F(SampleOps, SeedsAndPositionsDrawIndependently) {
  // Pairs of draws with neighbouring seeds or positions are uniform over the 4 x 4 outcomes.
  constexpr int64_t kDraws = 8000;
  HostTensor logits(DType::kF32, kDraws, 4);
  for (int64_t t = 0; t < kDraws; ++t)
    for (int64_t i = 0; i < 4; ++i) logits.set(t, i, 0);
  for (const bool by_seed : {true, false}) {
    std::vector<SamplingRow> rows(kDraws, SamplingRow{.temperature = 1});
    for (int64_t t = 0; t < kDraws; ++t) {
      rows[static_cast<size_t>(t)].seed = by_seed ? static_cast<uint64_t>(t) : 5;
      rows[static_cast<size_t>(t)].position = by_seed ? 9 : static_cast<int32_t>(t);
    }
    const auto after = run_case(*sides.tested, sample_case(logits, rows));
    std::map<std::pair<int, int>, double> counts;
    for (int64_t t = 0; t + 1 < kDraws; t += 2)
      ++counts[{static_cast<int>(after[kIds].get(t, 0)),
                static_cast<int>(after[kIds].get(t + 1, 0))}];
    double statistic = 0;
    const double expected = kDraws / 2.0 / 16;
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < 4; ++b) {
        const double difference = counts[{a, b}] - expected;
        statistic += difference * difference / expected;
      }
    EXPECT_LT(statistic, chi_squared_limit(15));
  }
}

}  // namespace
}  // namespace nanoflow::testing_ops
