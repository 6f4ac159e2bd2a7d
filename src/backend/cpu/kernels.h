// What every CPU kernel gets beside its OpArgs, and the two sets of kernels: reference (the
// specification of each op: plain loops) and fast (vectorised; equal to reference within rounding).
// Both sets are overloads of run(), so an op that one of them misses does not compile.
#pragma once

#include "backend/cpu/scratch.h"
#include "comm/communicator.h"
#include "ops/backend.h"

namespace nanoflow::cpu {

class Pool;

/// The run-time side of one launch.
struct Run {
  int threads = 1;                     ///< that the op may use, its lane's own included
  Pool* pool = nullptr;                ///< null: one thread
  Scratch* scratch = nullptr;          ///< the lane's
  RowRange rows;                       ///< LaunchContext::rows
  const StepHeader* header = nullptr;  ///< LaunchContext::header
  Communicator* comm = nullptr;        ///< null: one rank

  /// How many of the first rows of a view of `view_rows` rows are not padding. A view may have
  /// several rows per row of the batch.
  [[nodiscard]] int64_t live(int64_t view_rows) const;
};

/// Every row has the same bits whatever the batch, its place in it, the row range and the number of
/// threads. float32 arithmetic; sums over a row are kept in 16 interleaved partial sums
/// (element.h).
namespace reference {
void run(const EmbedArgs& args, const Run& ctx);
void run(const RmsNormArgs& args, const Run& ctx);
void run(const AddRmsNormArgs& args, const Run& ctx);
void run(const GemmArgs& args, const Run& ctx);
void run(const RopeAppendArgs& args, const Run& ctx);
void run(const PagedAttentionArgs& args, const Run& ctx);
void run(const SiluMulArgs& args, const Run& ctx);
void run(const MoeRouteArgs& args, const Run& ctx);
void run(const MoeSortArgs& args, const Run& ctx);
void run(const GroupedGemmArgs& args, const Run& ctx);
void run(const MoeCombineArgs& args, const Run& ctx);
void run(const GatherRowsArgs& args, const Run& ctx);
void run(const AllReduceArgs& args, const Run& ctx);
void run(const AllGatherArgs& args, const Run& ctx);
void run(const SampleArgs& args, const Run& ctx);
}  // namespace reference

/// Vectorised, within rounding of reference. Here too a row has the same bits in any batch, for the
/// same kind of row (decode or prefill). Ops that are not listed run the reference kernel, whose
/// loops vectorise as they are. Weights of GEMMs are packed in panels (gemm_panels.h).
namespace fast {
template <typename Args>
void run(const Args& args, const Run& ctx) {
  reference::run(args, ctx);
}
void run(const GemmArgs& args, const Run& ctx);
void run(const PagedAttentionArgs& args, const Run& ctx);
void run(const SiluMulArgs& args, const Run& ctx);
void run(const GroupedGemmArgs& args, const Run& ctx);
void run(const SampleArgs& args, const Run& ctx);
}  // namespace fast

}  // namespace nanoflow::cpu
