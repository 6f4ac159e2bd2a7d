// Copies tokens into the order of their experts, where grouped products then read them in rows.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/gemm_grouped.h"

namespace nanoflow::cuda {
namespace {

constexpr int kGatherThreads = 256, kGatherVectors = 2;

struct GatherParams {
  uint4* to;
  const char* from;
  int64_t pitch;  ///< bytes between rows of `from`
  int vectors;    ///< of 16 bytes in a row
  const int32_t *order, *offsets;
  int experts, per_token;
};

__global__ void __launch_bounds__(kGatherThreads) gather_kernel(const GatherParams p) {
  const int pairs = p.offsets[p.experts];
  for (int row = static_cast<int>(blockIdx.x); row < pairs; row += static_cast<int>(gridDim.x)) {
    const auto* from =
        reinterpret_cast<const uint4*>(p.from + p.order[row] / p.per_token * p.pitch);
    uint4* const to = p.to + static_cast<int64_t>(row) * p.vectors;
    for (int i = static_cast<int>(threadIdx.x); i < p.vectors;
         i += kGatherThreads * kGatherVectors) {
      const bool second = i + kGatherThreads < p.vectors;
      const uint4 a = from[i], b = second ? from[i + kGatherThreads] : uint4{};
      to[i] = a;
      if (second) to[i + kGatherThreads] = b;
    }
  }
}

}  // namespace

void launch_gather_tokens(void* to, const TensorView& from, const GroupedGemmArgs& args,
                          const Launch& launch) {
  const int64_t element = dtype_size(from.dtype());
  const GatherParams p{.to = static_cast<uint4*>(to),
                       .from = static_cast<const char*>(from.data()),
                       .pitch = from.row_stride() * element,
                       .vectors = static_cast<int>(from.cols() * element / 16),
                       .order = static_cast<const int32_t*>(args.order.data()),
                       .offsets = static_cast<const int32_t*>(args.offsets.data()),
                       .experts = static_cast<int>(args.weight.experts),
                       .per_token = static_cast<int>(args.experts_per_token)};
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(args.out.rows(), int64_t{launch.sms} * 8));
  gather_kernel<<<blocks, kGatherThreads, 0, launch.stream>>>(p);
  check_launch("gathering tokens by expert");
}

}  // namespace nanoflow::cuda
