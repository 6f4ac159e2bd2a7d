// Parts of sampling that reference and fast kernels share.
#pragma once

#include <algorithm>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "ops/sampling_noise.h"

namespace nanoflow::cpu {

/// How row `t` of the views (the sample graph's row args.rows.begin + t) is sampled.
inline SamplingRow sampling_row(const SampleArgs& args, int64_t t) {
  SamplingRow row;
  std::memcpy(&row, args.step.sampling.row<uint8_t>(args.rows.begin + t), sizeof(row));
  return row;
}

/// Rows of the views that are live: below the launch's rows and the step's num_samples.
inline int64_t live_samples(const SampleArgs& args, const Run& ctx) {
  const int64_t live = ctx.live(args.logits.rows());
  if (args.step.header == nullptr) return live;
  return std::clamp<int64_t>(args.step.header->num_samples - args.rows.begin, 0, live);
}

/// logits [V]: adds logit_bias, sets forbidden tokens to -infinity, then repetition (Keskar et al.
/// 2019, section 4.1; over prompt and output), frequency and presence penalties (over output), then
/// the row's mask.
void edit_logits(const SampleArgs& args, const SamplingRow& row, float* logits);

/// See ops/sampling_noise.h.
float gumbel_noise(uint64_t key, int32_t token);

/// What rows that report nothing hold: logprob 0, rank 0, top ids -1, top logprobs -infinity.
void clear_row_results(const SampleArgs& args, int64_t t);

}  // namespace nanoflow::cpu
