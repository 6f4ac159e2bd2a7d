// Which grouped products the Hopper kernel takes, and the tensor maps it reads through.
#include "backend/cuda/gemm_grouped.h"

#include <algorithm>

#include <fmt/format.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/tensor_map.h"
#include "base/check.h"

namespace nanoflow::cuda {
namespace {

bool is_aligned(const TensorView& v) {
  return reinterpret_cast<uintptr_t>(v.data()) % 16 == 0 && v.row_stride() % 8 == 0;
}

/// Few rows per expert are better served by many stages of weights in flight.
int token_tile_for(int64_t rows_per_expert) {
  return rows_per_expert <= 32    ? kSmallTokenTile
         : rows_per_expert <= 160 ? kMiddleTokenTile
                                  : kLargeTokenTile;
}

}  // namespace

bool supports(const GroupedGemmArgs& args, const DeviceLimits& device) {
  const PackedWeight& w = args.weight;
  const DType dtype = args.a.dtype();
  return device.is_sm90() && (dtype == DType::kBF16 || dtype == DType::kF16) &&
         args.out.dtype() == dtype && w.data.dtype() == dtype && w.layout == 0 &&
         w.scale.rank() == 0 && w.k % 8 == 0 && w.k > 0 && w.n % 8 == 0 && is_aligned(args.out) &&
         is_aligned(args.a) && is_aligned(w.data) && w.experts <= kMaxExperts;
}

int64_t workspace_bytes(const GroupedGemmArgs& args, int, const DeviceLimits&) {
  return args.gather ? args.out.rows() * args.weight.k * dtype_size(args.a.dtype()) : 0;
}

void run(const GroupedGemmArgs& args, const Launch& launch) {
  const PackedWeight& w = args.weight;
  const int64_t pairs = args.out.rows();
  if (pairs == 0) return;
  const void* tokens = args.a.data();
  int64_t stride = args.a.row_stride();
  if (args.gather) {
    NANO_CHECK(launch.workspace.size_bytes() >= workspace_bytes(args, launch.sms, *launch.device),
               "{} bytes of workspace for {} gathered rows", launch.workspace.size_bytes(), pairs);
    launch_gather_tokens(launch.workspace.data(), args.a, args, launch);
    tokens = launch.workspace.data();
    stride = w.k;
  }
  const int token_tile = token_tile_for(pairs / w.experts);
  const GroupedMaps maps{
      .weight = make_tensor_map(w.data.data(), {w.k, w.n, w.experts}, {w.k * 2, w.n * w.k * 2},
                                {64, 128, 1}),
      .tokens = make_tensor_map(tokens, {w.k, pairs}, {stride * 2}, {64, kGroupedBoxRows})};
  launch_grouped_sm90({.out = args.out.data(),
                       .out_stride = args.out.row_stride(),
                       .n = static_cast<int>(w.n),
                       .k = static_cast<int>(w.k),
                       .experts = static_cast<int>(w.experts),
                       .offsets = static_cast<const int32_t*>(args.offsets.data()),
                       .half = args.a.dtype() == DType::kF16,
                       .sms = launch.sms},
                      maps, token_tile, launch.stream);
}

}  // namespace nanoflow::cuda
