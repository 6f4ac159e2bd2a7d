// Paged attention: which kernel computes which rows of a call. Decode rows go to the streaming
// kernel, prefill rows to a warpgroup kernel on Hopper and to a warp-level one elsewhere.
#include <algorithm>
#include <numbers>

#include "backend/cuda/attention_kernels.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/tensor_map.h"

namespace nanoflow::cuda {
namespace {

bool wants_decode(const PagedAttentionArgs& args) {
  return args.phase != Phase::kPrefill && args.step.header != nullptr;
}

bool wants_prefill(const PagedAttentionArgs& args) {
  return args.phase != Phase::kDecode;
}

/// Warpgroup products need whole 64-column blocks; a narrower head is padded with zeros by the
/// copy.
bool takes_warpgroups(int64_t head_dim, const DeviceLimits& device) {
  return device.is_sm90() && (head_dim <= 64 || head_dim == 128);
}

AttentionParams params_of(const PagedAttentionArgs& args, const Launch& launch) {
  AttentionParams p;
  p.q = args.q.data();
  p.out = args.out.data();
  p.q_stride = args.q.row_stride();
  p.out_stride = args.out.row_stride();
  p.k = args.cache.k;
  p.v = args.cache.v;
  p.page_stride = args.cache.page_stride;
  p.slot_stride = args.cache.slot_stride;
  p.head_stride = args.cache.head_stride;
  p.positions = args.step.positions.row<int32_t>(0) + args.rows.begin;
  p.row_seq = args.step.row_seq.row<int32_t>(0) + args.rows.begin;
  p.page_indptr = args.step.kv_page_indptr.row<int32_t>(0);
  p.page_indices = args.step.kv_page_indices.row<int32_t>(0);
  if (launch.header != nullptr) p.live_rows = &launch.header->num_rows;
  if (args.step.header != nullptr) {
    p.live_rows = &args.step.header->num_rows;
    p.decode_rows = &args.step.header->num_decode_rows;
  }
  p.row_begin = static_cast<int32_t>(args.rows.begin);
  p.num_rows = static_cast<int32_t>(args.rows.size());
  p.num_kv_heads = static_cast<int32_t>(args.num_kv_heads);
  p.group = static_cast<int32_t>(args.num_q_heads / args.num_kv_heads);
  p.head_dim = static_cast<int32_t>(args.head_dim);
  p.window = static_cast<int32_t>(std::min<int64_t>(args.window, INT32_MAX));
  p.scale_log2 = args.scale * std::numbers::log2e_v<float>;
  p.half = args.q.dtype() == DType::kF16;
  p.bulk = launch.device->is_sm90();
  p.sms = launch.sms;
  p.workspace = launch.workspace.data();
  return p;
}

}  // namespace

int compiled_head_dim(int64_t head_dim) {
  if (head_dim <= 0 || head_dim % 8 != 0) return 0;
  if (head_dim <= 64) return 64;
  for (const int compiled : {80, 96, 128, 256})
    if (head_dim == compiled) return compiled;
  return 0;
}

bool supports(const PagedAttentionArgs& args, const DeviceLimits& device) {
  const DType dtype = args.q.dtype();
  const int64_t group = args.num_kv_heads > 0 ? args.num_q_heads / args.num_kv_heads : 0;
  return device.compute_major >= 8 && (dtype == DType::kBF16 || dtype == DType::kF16) &&
         args.cache.dtype == dtype && compiled_head_dim(args.head_dim) != 0 && group >= 1 &&
         group <= kMaxGroup && args.cache.page_size == kAttentionPage && kv_tileable(args.cache) &&
         args.q.row_stride() % 8 == 0 && reinterpret_cast<uintptr_t>(args.q.data()) % 16 == 0 &&
         decode_fits(group, args.head_dim, device);
}

int64_t workspace_bytes(const PagedAttentionArgs& args, int sms, const DeviceLimits&) {
  // The two phases follow each other on one stream, so they share the bytes.
  const int64_t decode = wants_decode(args) ? decode_workspace(args.num_q_heads / args.num_kv_heads,
                                                               args.head_dim, sms)
                                            : 0;
  return std::max(decode, wants_prefill(args) ? prefill_workspace(args.rows.size()) : 0);
}

void run(const PagedAttentionArgs& args, const Launch& launch) {
  if (args.rows.size() == 0) return;
  const DeviceLimits& device = *launch.device;
  const AttentionParams p = params_of(args, launch);
  if (wants_decode(args)) {
    const KvMaps maps =
        p.bulk ? make_kv_maps(args.cache, args.num_kv_heads, args.head_dim, true) : KvMaps{};
    launch_decode(p, maps, device, launch.stream);
  }
  if (!wants_prefill(args)) return;
  if (takes_warpgroups(args.head_dim, device)) {
    launch_prefill_plan(p, kTileRowsSm90 / p.group, launch.stream);
    launch_prefill_sm90(p, make_kv_maps(args.cache, args.num_kv_heads, args.head_dim, false),
                        launch.stream);
  } else {
    launch_prefill_plan(p, kTileRows / p.group, launch.stream);
    launch_prefill(p, device, launch.stream);
  }
}

}  // namespace nanoflow::cuda
