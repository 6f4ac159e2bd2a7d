// Vectorised SiLU * up.
#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/vector_math.h"

namespace nanoflow::cpu::fast {
namespace {

/// Below -80 the quotient is under 1e-32 and exp(-gate) would leave float32's range.
NANO_INLINE Floats silu(Floats gate) {
  const Floats negated = -gate;
  const Floats limit = splat(80.0f);
  return gate / (1.0f + exp(negated < limit ? negated : limit));
}

template <typename T>
void silu_mul_row(const T* gate, const T* up, T* out, int64_t cols) {
  int64_t i = 0;
  for (; i + kSimd <= cols; i += kSimd) store(out + i, silu(load(gate + i)) * load(up + i));
  const int64_t rest = cols - i;
  if (rest > 0)
    store_part(out + i, silu(load_part(gate + i, rest)) * load_part(up + i, rest), rest);
}

}  // namespace

void run(const SiluMulArgs& args, const Run& ctx) {
  const int64_t cols = args.out.cols();
  const int64_t grain = 1 + (int64_t{1} << 14) / std::max<int64_t>(1, cols);
  parallel_chunks(ctx, ctx.live(args.out.rows()), grain, [&](int64_t begin, int64_t end) {
    with_element_type(args.out.dtype(), [&]<typename T>(T) {
      for (int64_t t = begin; t < end; ++t) {
        const T* gate = args.gate_up.row<T>(t);
        silu_mul_row(gate, gate + cols, args.out.row<T>(t), cols);
      }
    });
  });
}

}  // namespace nanoflow::cpu::fast
