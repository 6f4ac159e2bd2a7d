#include "engine/sequence.h"

#include <algorithm>
#include <utility>

namespace nanoflow {

Sequence::Sequence(Request accepted, int64_t max_output_tokens, uint64_t default_seed,
                   int64_t arrival_index, int64_t submitted_ns)
    : request(std::move(accepted)),
      arrival(arrival_index),
      num_prompt(static_cast<int64_t>(request.prompt.size())),
      max_output(max_output_tokens),
      seed(request.sampling.seed.value_or(default_seed)),
      tokens(std::move(request.prompt)) {
  const SamplingParams& p = request.sampling;
  stop_ids = p.stop_token_ids;
  if (!p.ignore_eos && request.eos_token_ids) {
    stop_ids.insert(stop_ids.end(), request.eos_token_ids->begin(), request.eos_token_ids->end());
  }
  std::sort(stop_ids.begin(), stop_ids.end());
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  uses_penalties = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
  times.submitted_ns = submitted_ns;
}

int64_t Sequence::total_rows() const {
  if (max_output > 0) return num_prompt + max_output - 1;
  return wants_prompt_logprobs() ? num_prompt - 1 : 0;
}

int64_t Sequence::ready_rows() const {
  return std::min(length(), total_rows()) - num_rows;
}

bool Sequence::stops_at(int32_t token) const {
  return std::binary_search(stop_ids.begin(), stop_ids.end(), token);
}

}  // namespace nanoflow
