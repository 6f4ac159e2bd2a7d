// Sampling: scratch memory and the two launches. The kernels are in sample_scan.cu and
// sample_finish.cu.
#include <algorithm>

#include "backend/cuda/sample.cuh"
#include "tensor/buffer.h"

namespace nanoflow::cuda {
namespace {

int64_t num_chunks(const SampleArgs& args) {
  return (args.logits.cols() + sampling::kChunk - 1) / sampling::kChunk;
}

int64_t num_blocks(const SampleArgs& args, int sms) {
  return std::max<int64_t>(1, std::min<int64_t>(args.logits.rows(), sms));
}

int64_t slot_stride(const SampleArgs& args) {
  return (args.logits.cols() + 3) / 4 * 4;
}

/// Offsets of the scratch arrays.
struct Scratch {
  ArenaLayout arena;
  int64_t partials, scores, counts;
  Scratch(const SampleArgs& args, int sms)
      : partials(arena.place(args.logits.rows() * num_chunks(args) *
                             static_cast<int64_t>(sizeof(sampling::Partial)))),
        scores(arena.place(num_blocks(args, sms) * slot_stride(args) * 4)),
        counts(arena.place(num_blocks(args, sms) * slot_stride(args) * 4)) {}
};

}  // namespace

int64_t workspace_bytes(const SampleArgs& args, int sms, const DeviceLimits&) {
  return args.logits.rows() == 0 ? 0 : Scratch(args, sms).arena.size();
}

void run(const SampleArgs& args, const Launch& launch) {
  const int64_t rows = args.logits.rows();
  if (rows == 0) return;
  const Scratch scratch(args, launch.sms);
  NANO_CHECK(launch.workspace.size_bytes() >= scratch.arena.size(), "workspace {}",
             launch.workspace.to_string());
  auto* memory = static_cast<std::byte*>(launch.workspace.data());
  const StepInputs& step = args.step;
  const sampling::Params params{
      .ids = static_cast<int32_t*>(args.ids.data()),
      .logprobs = static_cast<float*>(args.logprobs.data()),
      .ranks = static_cast<int32_t*>(args.ranks.data()),
      .top_ids = static_cast<int32_t*>(args.top_ids.data()),
      .top_logprobs = static_cast<float*>(args.top_logprobs.data()),
      .top_ids_stride = args.top_ids.row_stride(),
      .top_logprobs_stride = args.top_logprobs.row_stride(),
      .logits = static_cast<const float*>(args.logits.data()),
      .logits_stride = args.logits.row_stride(),
      .vocab = static_cast<int>(args.logits.cols()),
      .chunks = static_cast<int>(num_chunks(args)),
      .rows = static_cast<const std::byte*>(step.sampling.data()),
      .rows_pitch = step.sampling.row_stride(),
      .history = static_cast<const int32_t*>(step.history.data()),
      .bias_ids = static_cast<const int32_t*>(step.bias_ids.data()),
      .bias_values = static_cast<const float*>(step.bias_values.data()),
      .masks = static_cast<const uint32_t*>(step.masks.data()),
      .masks_stride = step.masks.row_stride(),
      .last_token = static_cast<int32_t*>(step.last_token.data()),
      .step_header = step.header,
      .first_row = static_cast<int>(args.rows.begin),
      .live = live_rows(launch, rows),
      .partials = reinterpret_cast<sampling::Partial*>(memory + scratch.partials),
      .scores = reinterpret_cast<float*>(memory + scratch.scores),
      .counts = reinterpret_cast<uint32_t*>(memory + scratch.counts),
      .slot_stride = slot_stride(args)};
  sampling::launch_scan(params, rows, launch);
  sampling::launch_finish(params, static_cast<int>(num_blocks(args, launch.sms)), launch);
}

}  // namespace nanoflow::cuda
