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
  // The end of a constrained output is told by EOS alone.
  if ((!p.ignore_eos || request.constraint != nullptr) && request.eos_token_ids) {
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

bool Sequence::update_mask() {
  if (!constraint->fill_mask(mask)) return false;
  const auto allows_any = [this] {
    return std::any_of(mask.begin(), mask.end(), [](int32_t word) { return word != 0; });
  };
  if (!below_min_tokens()) return allows_any();
  const std::vector<int32_t> with_stops = mask;
  for (const int32_t id : stop_ids) {
    auto& word = mask[static_cast<size_t>(id / 32)];
    word = static_cast<int32_t>(static_cast<uint32_t>(word) & ~(1U << (id % 32)));
  }
  if (!allows_any()) mask = with_stops;
  return allows_any();
}

bool Sequence::stops_at(int32_t token) const {
  return std::binary_search(stop_ids.begin(), stop_ids.end(), token);
}

}  // namespace nanoflow
