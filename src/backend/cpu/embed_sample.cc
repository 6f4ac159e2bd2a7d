// Reference embedding, row gather and sampling. The definition of each step of sampling is here.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/sampling.h"

namespace nanoflow::cpu {

namespace {

void apply_bias_and_penalties(const SampleArgs& args, const SamplingRow& row, float* logits) {
  const int64_t vocab = args.logits.cols();
  const auto in_vocab = [&](int32_t id) { return 0 <= id && id < vocab; };
  if (row.bias_end > row.forbid_eos_begin) {
    const int32_t* ids = args.step.bias_ids.row<int32_t>(0);
    const float* values = args.step.bias_values.row<float>(0);
    for (int32_t i = row.bias_begin; i < row.bias_end; ++i)
      if (in_vocab(ids[i])) logits[ids[i]] += values[i];
    for (int32_t i = row.forbid_eos_begin; i < row.bias_begin; ++i)
      if (in_vocab(ids[i])) logits[ids[i]] = -INFINITY;
  }
  if (row.repetition_penalty == 1 && row.presence_penalty == 0 && row.frequency_penalty == 0)
    return;
  std::vector<int32_t> prompt, output;
  if (row.history_end > row.history_begin) {
    const int32_t* history = args.step.history.row<int32_t>(0);
    prompt.assign(history + row.history_begin, history + row.history_output_begin);
    output.assign(history + row.history_output_begin, history + row.history_end);
  }
  if (row.pending_slot >= 0)
    output.push_back(args.step.last_token.row<int32_t>(0)[row.pending_slot]);
  std::vector<int32_t> seen = prompt;
  seen.insert(seen.end(), output.begin(), output.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const int32_t id : seen) {
    if (!in_vocab(id)) continue;
    float& x = logits[id];
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
  }
  std::sort(output.begin(), output.end());
  for (size_t i = 0; i < output.size();) {
    const size_t begin = i;
    while (i < output.size() && output[i] == output[begin]) ++i;
    if (!in_vocab(output[begin])) continue;
    const auto count = static_cast<float>(i - begin);
    logits[output[begin]] -= row.frequency_penalty * count + row.presence_penalty;
  }
}

/// Word by word: most words of a mask allow everything or nothing.
void apply_mask(const SampleArgs& args, const SamplingRow& row, float* logits) {
  const int64_t vocab = args.logits.cols();
  const int32_t* words = args.step.masks.row<int32_t>(row.mask);
  for (int64_t begin = 0; begin < vocab; begin += 32) {
    const auto word = static_cast<uint32_t>(words[begin / 32]);
    const int64_t end = std::min(vocab, begin + 32);
    if (word == ~0U) continue;
    for (int64_t i = begin; i < end; ++i)
      if ((word >> (i - begin) & 1U) == 0) logits[i] = -INFINITY;
  }
}

}  // namespace

void edit_logits(const SampleArgs& args, const SamplingRow& row, float* logits) {
  apply_bias_and_penalties(args, row, logits);
  if (row.mask >= 0) apply_mask(args, row, logits);
}

float gumbel_noise(uint64_t key, int32_t token) {
  return -std::log(-std::log1p(-noise_uniform(noise_bits(key, token))));
}

void clear_row_results(const SampleArgs& args, int64_t t) {
  args.logprobs.row<float>(0)[t] = 0;
  args.ranks.row<int32_t>(0)[t] = 0;
  std::fill_n(args.top_ids.row<int32_t>(t), kMaxTopLogprobs, -1);
  std::fill_n(args.top_logprobs.row<float>(t), kMaxTopLogprobs, -INFINITY);
}

namespace reference {
namespace {

/// Token ids by falling value, equal values by rising id.
std::vector<int32_t> sorted_ids(const std::vector<float>& values) {
  std::vector<int32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const float x = values[static_cast<size_t>(a)], y = values[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  return ids;
}

/// The candidates in falling order: top-k of all, then the shortest prefix whose probability
/// reaches top_p, then those of at least min_p times the best one's probability. Never empty.
std::vector<int32_t> candidates(const std::vector<float>& scores, const SamplingRow& row) {
  std::vector<int32_t> ids = sorted_ids(scores);
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < ids.size())
    ids.resize(static_cast<size_t>(row.top_k));
  const float best = scores[static_cast<size_t>(ids[0])];
  const auto weight = [&](int32_t id) { return std::exp(scores[static_cast<size_t>(id)] - best); };
  if (row.top_p < 1) {
    double total = 0, sum = 0;
    for (const int32_t id : ids) total += weight(id);
    size_t kept = 0;
    while (kept < ids.size() && (kept == 0 || sum < row.top_p * total)) sum += weight(ids[kept++]);
    ids.resize(kept);
  }
  if (row.min_p > 0) std::erase_if(ids, [&](int32_t id) { return weight(id) < row.min_p; });
  return ids.empty() ? std::vector<int32_t>{sorted_ids(scores)[0]} : ids;
}

/// argmax over the candidates of score + noise, lower id first.
int32_t choose(std::vector<float>& logits, const SamplingRow& row) {
  if (row.temperature > 0)
    for (float& x : logits) x /= row.temperature;
  const std::vector<int32_t> ids = candidates(logits, row);
  if (row.temperature <= 0 || logits[static_cast<size_t>(ids[0])] == -INFINITY) return ids[0];
  const uint64_t key = noise_key(row.seed, row.position);
  int32_t best_id = -1;
  float best = -INFINITY;
  for (const int32_t id : ids) {
    const float value = logits[static_cast<size_t>(id)] + gumbel_noise(key, id);
    if (best_id < 0 || value > best || (value == best && id < best_id)) {
      best_id = id;
      best = value;
    }
  }
  return best_id;
}

/// Logprob and rank of `id`, and the wanted top logprobs, of the unmodified logits.
void report(const SampleArgs& args, const SamplingRow& row, int64_t t,
            const std::vector<float>& logits, int32_t id) {
  const std::vector<int32_t> ids = sorted_ids(logits);
  const float best = std::max(logits[static_cast<size_t>(ids[0])], -3e38f);
  double total = 0;
  for (const float x : logits) total += std::exp(x - best);
  const auto logprob = [&](int32_t token) {
    return static_cast<float>(logits[static_cast<size_t>(token)] - best - std::log(total));
  };
  args.logprobs.row<float>(0)[t] = logprob(id);
  args.ranks.row<int32_t>(0)[t] =
      static_cast<int32_t>(std::find(ids.begin(), ids.end(), id) - ids.begin());
  const auto wanted = static_cast<size_t>(std::clamp<int64_t>(
      row.num_logprobs, 0, std::min<int64_t>(kMaxTopLogprobs, args.logits.cols())));
  for (size_t i = 0; i < wanted; ++i) {
    args.top_ids.row<int32_t>(t)[i] = ids[i];
    args.top_logprobs.row<float>(t)[i] = logprob(ids[i]);
  }
}

void sample_row(const SampleArgs& args, int64_t t) {
  const SamplingRow row = sampling_row(args, t);
  std::vector<float> logits(static_cast<size_t>(args.logits.cols()));
  load_row(args.logits, t, logits.data());
  for (float& x : logits)
    if (std::isnan(x)) x = -INFINITY;
  int32_t id = row.target;
  if (id < 0) {
    std::vector<float> scores = logits;
    edit_logits(args, row, scores.data());
    id = choose(scores, row);
    if (row.slot >= 0) args.step.last_token.row<int32_t>(0)[row.slot] = id;
  }
  NANO_CHECK(id < args.logits.cols(), "target {} of {}", id, args.logits.cols());
  args.ids.row<int32_t>(0)[t] = id;
  clear_row_results(args, t);
  if (row.num_logprobs >= 0 || row.target >= 0) report(args, row, t, logits, id);
}

}  // namespace

void run(const EmbedArgs& args, const Run& ctx) {
  const int32_t* ids = args.token_ids.row<int32_t>(0);
  parallel_chunks(ctx, ctx.live(args.out.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(args.out.cols()));
    for (int64_t t = begin; t < end; ++t) {
      const int32_t id = ids[t] >= 0 ? ids[t] : args.last_token.row<int32_t>(0)[~ids[t]];
      NANO_CHECK(0 <= id && id < args.table.rows(), "token {} of {}", id, args.table.rows());
      load_row(args.table, id, row.data());
      store_row(args.out, t, row.data());
    }
  });
}

void run(const GatherRowsArgs& args, const Run& ctx) {
  const int32_t* index = args.index.row<int32_t>(0);
  const auto bytes = static_cast<size_t>(args.out.cols() * dtype_size(args.out.dtype()));
  for (int64_t t = 0; t < ctx.live(args.out.rows()); ++t) {
    NANO_CHECK(0 <= index[t] && index[t] < args.x.rows(), "row {} of {}", index[t], args.x.rows());
    std::memcpy(mutable_row_data(args.out, t), row_data(args.x, index[t]), bytes);
  }
}

void run(const SampleArgs& args, const Run& ctx) {
  parallel_chunks(ctx, live_samples(args, ctx), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) sample_row(args, t);
  });
}

}  // namespace reference
}  // namespace nanoflow::cpu
