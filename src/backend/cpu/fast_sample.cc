// Sampling without sorting the vocabulary. Tokens are chosen by the same formulas as reference:
// vectorised passes only narrow the candidates down, with a margin over their rounding.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/sampling.h"
#include "backend/cpu/vector_math.h"

namespace nanoflow::cpu::fast {
namespace {

using UInt64s = uint64_t __attribute__((vector_size(128)));

/// One row's values, padded with -infinity to whole vectors.
struct Values {
  float* data = nullptr;
  float* spare = nullptr;  ///< as long as data
  int64_t count = 0;       ///< of the vocabulary
  int64_t padded = 0;      ///< multiple of 16
};

/// Copies logits [count]; NaN becomes -infinity.
void copy_clean(const float* logits, Values& values) {
  int64_t i = 0;
  for (; i + kSimd <= values.count; i += kSimd) {
    const Floats x = load(logits + i);
    const Ints is_number = x == x;  // NOLINT(misc-redundant-expression): NaN is not
    store(values.data + i, is_number ? x : splat(-INFINITY));
  }
  for (; i < values.padded; ++i)
    values.data[i] = i < values.count && logits[i] == logits[i] ? logits[i] : -INFINITY;
}

float largest(const Values& values) {
  Floats best = splat(-INFINITY);
  for (int64_t i = 0; i < values.padded; i += kSimd) best = max(best, load(values.data + i));
  return max(best);
}

int32_t first_equal(const Values& values, float x) {
  for (int64_t i = 0; i < values.count; ++i)
    if (values.data[i] == x) return static_cast<int32_t>(i);
  return 0;
}

/// Sum of exp(x - best), in double per 1,024 values.
double sum_exp(const Values& values, float best) {
  constexpr int64_t kBlock = 1024;
  double total = 0;
  for (int64_t block = 0; block < values.padded; block += kBlock) {
    Floats part{};
    const int64_t end = std::min(values.padded, block + kBlock);
    for (int64_t i = block; i < end; i += kSimd) part += exp(load(values.data + i) - best);
    total += sum(part);
  }
  return total;
}

void sort_ids(const Values& values, std::vector<int32_t>& ids) {
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const float x = values.data[a], y = values.data[b];
    return x != y ? x > y : a < b;
  });
}

/// Ids of all values >= threshold, in rising order.
std::vector<int32_t> ids_from(const Values& values, float threshold) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < values.padded; i += kSimd) {
    if (max(load(values.data + i)) < threshold) continue;
    for (int64_t j = i; j < std::min(i + kSimd, values.count); ++j)
      if (values.data[j] >= threshold) ids.push_back(static_cast<int32_t>(j));
  }
  return ids;
}

/// At least the `k` best ids (all when there are fewer), by falling value, then rising id. The k-th
/// largest maximum of 16 values is a threshold that at least k values reach.
std::vector<int32_t> best_ids(const Values& values, int64_t k) {
  float threshold = -INFINITY;
  if (k > 0 && k < values.padded / kSimd) {
    std::vector<float> maxima(static_cast<size_t>(values.padded / kSimd));
    for (size_t b = 0; b < maxima.size(); ++b)
      maxima[b] = max(load(values.data + static_cast<int64_t>(b) * kSimd));
    std::nth_element(maxima.begin(), maxima.begin() + (k - 1), maxima.end(), std::greater<>());
    threshold = maxima[static_cast<size_t>(k - 1)];
  }
  std::vector<int32_t> ids = ids_from(values, threshold);
  sort_ids(values, ids);
  return ids;
}

/// The first top_k ids, cut to the shortest prefix whose weight reaches top_p of theirs.
std::vector<int32_t> top_k_ids(const Values& scores, const SamplingRow& row, float best) {
  std::vector<int32_t> ids = best_ids(scores, row.top_k);
  ids.resize(static_cast<size_t>(row.top_k));
  if (row.top_p >= 1) return ids;
  const auto weight = [&](int32_t id) { return std::exp(scores.data[id] - best); };
  double total = 0, sum = 0;
  for (const int32_t id : ids) total += weight(id);
  size_t kept = 0;
  while (kept < ids.size() && (kept == 0 || sum < row.top_p * total)) sum += weight(ids[kept++]);
  ids.resize(kept);
  return ids;
}

/// Sets all scores outside the nucleus (the shortest prefix of the falling order whose weight
/// reaches top_p of all) to -infinity. A histogram of the weights finds the score at which the
/// prefix ends, so only the scores of one bucket are sorted.
void mask_outside_nucleus(Values& scores, const SamplingRow& row, float best) {
  constexpr int kBuckets = 4096;
  constexpr float kRange = 32;  // below best - 32 a weight is under 1e-14 of the best one's
  const auto bucket_of = [&](float x) {
    const float depth = (best - x) * (kBuckets / kRange);
    return depth < kBuckets - 1 ? static_cast<int>(depth) : kBuckets - 1;
  };
  std::vector<double> weights(kBuckets);
  for (int64_t i = 0; i < scores.padded; i += kSimd) {
    const Floats w = exp(load(scores.data + i) - best);
    for (int64_t j = 0; j < std::min(kSimd, scores.count - i); ++j)
      weights[static_cast<size_t>(bucket_of(scores.data[i + j]))] += w[j];
  }
  double total = 0, sum = 0;
  for (const double w : weights) total += w;
  int last = 0;
  while (last < kBuckets - 1 && sum + weights[static_cast<size_t>(last)] < row.top_p * total)
    sum += weights[static_cast<size_t>(last++)];
  std::vector<int32_t> edge;
  for (int64_t i = 0; i < scores.count; ++i)
    if (bucket_of(scores.data[i]) == last) edge.push_back(static_cast<int32_t>(i));
  sort_ids(scores, edge);
  size_t kept = 0;
  while (kept < edge.size() && ((last == 0 && kept == 0) || sum < row.top_p * total))
    sum += std::exp(scores.data[edge[kept++]] - best);
  for (int64_t i = 0; i < scores.count; ++i)
    if (bucket_of(scores.data[i]) > last) scores.data[i] = -INFINITY;
  for (size_t i = kept; i < edge.size(); ++i) scores.data[edge[i]] = -INFINITY;
}

/// Sets scores of less than min_p times the best one's probability to -infinity.
void mask_below_min_p(Values& scores, float min_p, float best) {
  constexpr float kMargin = 1e-3f;  // over the rounding of exp and log near the limit
  const float limit = best + std::log(min_p);
  for (int64_t i = 0; i < scores.count; ++i) {
    float& x = scores.data[i];
    if (x >= limit + kMargin || x == best) continue;
    if (x < limit - kMargin || std::exp(x - best) < min_p) x = -INFINITY;
  }
}

/// Noise of 16 tokens from `first`, within a few ulp of gumbel_noise().
NANO_INLINE Floats gumbel_noises(uint64_t key, int64_t first) {
  constexpr UInt64s kLanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  UInt64s x = (kLanes + static_cast<uint64_t>(first)) * 0x9e3779b97f4a7c15ull + key;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  const UInts bits = __builtin_convertvector((x ^ (x >> 31)) >> 32, UInts);
  const Floats u = (__builtin_convertvector(bits, Floats) + 0.5f) * 2.3283064365386963e-10f;
  const Floats below_one = splat(0.99999994f);
  return -log(negative_log1p(u < below_one ? u : below_one));
}

int32_t argmax_exact(const Values& scores, const std::vector<int32_t>& ids, uint64_t key) {
  int32_t best_id = ids.front();
  float best = -INFINITY;
  for (const int32_t id : ids) {
    const float value = scores.data[id] + gumbel_noise(key, id);
    if (value > best || (value == best && id < best_id)) {
      best_id = id;
      best = value;
    }
  }
  return best_id;
}

/// argmax of score + noise over the whole vocabulary.
int32_t argmax_noisy(const Values& scores, uint64_t key) {
  // The sums find who can win; the scores decide by the exact formula.
  const Values sums{scores.spare, nullptr, scores.count, scores.padded};
  for (int64_t i = 0; i < scores.padded; i += kSimd)
    store(sums.data + i, load(scores.data + i) + gumbel_noises(key, i));
  const float best = largest(sums);
  // Two noises within 2^-18 of their value, two sums rounded at |best|.
  const float margin = 1e-4f + 4e-7f * std::abs(best);
  return argmax_exact(scores, ids_from(sums, best - margin), key);
}

int32_t choose(Values& scores, const SamplingRow& row) {
  if (row.temperature > 0)
    for (int64_t i = 0; i < scores.padded; ++i) scores.data[i] /= row.temperature;
  const float best = largest(scores);
  if (row.temperature <= 0 || best == -INFINITY || best == INFINITY)
    return first_equal(scores, best);
  const uint64_t key = noise_key(row.seed, row.position);
  if (row.top_k <= 0 || row.top_k >= scores.count) {
    if (row.top_p < 1) mask_outside_nucleus(scores, row, best);
    if (row.min_p > 0) mask_below_min_p(scores, row.min_p, best);
    return argmax_noisy(scores, key);
  }
  std::vector<int32_t> ids = top_k_ids(scores, row, best);
  if (row.min_p > 0)
    std::erase_if(ids, [&](int32_t id) {
      return scores.data[id] != best && std::exp(scores.data[id] - best) < row.min_p;
    });
  return argmax_exact(scores, ids, key);
}

void report(const SampleArgs& args, const SamplingRow& row, int64_t t, const Values& logits,
            int32_t id) {
  const float best = std::max(largest(logits), -3e38f);
  const double log_total = std::log(sum_exp(logits, best));
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(logits.data[token] - best - log_total);
  };
  args.logprobs.row<float>(0)[t] = logprob(id);
  const float x = logits.data[id];
  int32_t rank = 0;
  for (int64_t i = 0; i < logits.count; ++i) rank += logits.data[i] > x ? 1 : 0;
  for (int64_t i = 0; i < id; ++i) rank += logits.data[i] == x ? 1 : 0;
  args.ranks.row<int32_t>(0)[t] = rank;
  const int64_t wanted =
      std::clamp<int64_t>(row.num_logprobs, 0, std::min(kMaxTopLogprobs, logits.count));
  if (wanted == 0) return;
  const std::vector<int32_t> ids = best_ids(logits, wanted);
  for (int64_t i = 0; i < wanted; ++i) {
    args.top_ids.row<int32_t>(t)[i] = ids[static_cast<size_t>(i)];
    args.top_logprobs.row<float>(t)[i] = logprob(ids[static_cast<size_t>(i)]);
  }
}

void sample_row(const SampleArgs& args, int64_t t, Values& values) {
  const SamplingRow row = sampling_row(args, t);
  const float* logits = args.logits.row<float>(t);
  int32_t id = row.target;
  if (id < 0) {
    copy_clean(logits, values);
    edit_logits(args, row, values.data);
    id = choose(values, row);
    if (row.slot >= 0) args.step.last_token.row<int32_t>(0)[row.slot] = id;
  }
  NANO_CHECK(id < args.logits.cols(), "target {} of {}", id, args.logits.cols());
  args.ids.row<int32_t>(0)[t] = id;
  clear_row_results(args, t);
  if (row.num_logprobs < 0 && row.target < 0) return;
  copy_clean(logits, values);
  report(args, row, t, values, id);
}

}  // namespace

void run(const SampleArgs& args, const Run& ctx) {
  const int64_t padded = (args.logits.cols() + kSimd - 1) / kSimd * kSimd;
  const int64_t slots = std::max(1, ctx.threads);
  ctx.scratch->reserve(Scratch::bytes<float>(2 * slots * padded));
  float* scratch = ctx.scratch->take<float>(2 * slots * padded);
  parallel_slots(ctx, live_samples(args, ctx), 1, [&](int64_t begin, int64_t end, int slot) {
    float* memory = scratch + 2 * padded * slot;
    Values values{memory, memory + padded, args.logits.cols(), padded};
    for (int64_t t = begin; t < end; ++t) sample_row(args, t, values);
  });
}

}  // namespace nanoflow::cpu::fast
