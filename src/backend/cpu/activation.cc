// Reference SiLU * up.
#include <cmath>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::reference {

void run(const SiluMulArgs& args, const Run& ctx) {
  const auto cols = static_cast<size_t>(args.out.cols());
  parallel_chunks(ctx, ctx.live(args.out.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> in(2 * cols), out(cols);
    for (int64_t t = begin; t < end; ++t) {
      load_row(args.gate_up, t, in.data());
      for (size_t i = 0; i < cols; ++i) {
        const float gate = in[i];
        out[i] = gate / (1.0f + std::exp(-gate)) * in[cols + i];
      }
      store_row(args.out, t, out.data());
    }
  });
}

}  // namespace nanoflow::cpu::reference
