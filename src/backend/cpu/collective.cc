// Collectives of the live rows through the backend's communicator; one rank alone copies.
#include <algorithm>
#include <cstring>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"

namespace nanoflow::cpu {

int64_t Run::live(int64_t view_rows) const {
  if (header == nullptr) return view_rows;
  const int64_t range = rows.size();
  if (range <= 0 || view_rows == 0) return 0;
  NANO_CHECK(view_rows % range == 0, "a view of {} rows for {} rows of the batch", view_rows,
             range);
  const int64_t live_rows = std::clamp<int64_t>(header->num_rows - rows.begin, 0, range);
  return live_rows * (view_rows / range);
}

namespace reference {

void run(const AllReduceArgs& args, const Run& ctx) {
  if (ctx.comm == nullptr || ctx.comm->size() == 1) return;
  ctx.comm->all_reduce(args.x.slice_rows(0, ctx.live(args.x.rows())));
}

void run(const AllGatherArgs& args, const Run& ctx) {
  const int64_t live = ctx.live(args.x.rows());
  const TensorView x = args.x.slice_rows(0, live), out = args.out.slice_rows(0, live);
  if (ctx.comm != nullptr && ctx.comm->size() > 1) return ctx.comm->all_gather(out, x);
  NANO_CHECK(out.cols() == x.cols(), "all_gather of one rank into {}", out.to_string());
  for (int64_t t = 0; t < live; ++t)
    std::memcpy(mutable_row_data(out, t), row_data(x, t),
                static_cast<size_t>(x.cols() * dtype_size(x.dtype())));
}

}  // namespace reference
}  // namespace nanoflow::cpu
