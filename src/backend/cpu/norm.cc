// Reference RMS norms.
#include <cmath>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::reference {
namespace {

/// x = x * rsqrt(mean(x^2) + eps) * weight.
void normalize(std::vector<float>& x, const std::vector<float>& weight, float eps) {
  const auto n = static_cast<int64_t>(x.size());
  const float mean = dot(x.data(), x.data(), n) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + eps);
  for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] * scale * weight[i];
}

}  // namespace

void run(const RmsNormArgs& args, const Run& ctx) {
  const std::vector<float> weight = load_vector(args.weight);
  parallel_chunks(ctx, ctx.live(args.x.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> x(weight.size());
    for (int64_t t = begin; t < end; ++t) {
      load_row(args.x, t, x.data());
      normalize(x, weight, args.eps);
      store_row(args.out, t, x.data());
    }
  });
}

void run(const AddRmsNormArgs& args, const Run& ctx) {
  const std::vector<float> weight = load_vector(args.weight);
  parallel_chunks(ctx, ctx.live(args.residual.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> x(weight.size()), delta(weight.size());
    for (int64_t t = begin; t < end; ++t) {
      load_row(args.delta, t, delta.data());
      if (args.replace) {
        x = delta;
      } else {
        load_row(args.residual, t, x.data());
        for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
      }
      store_row(args.residual, t, x.data());
      load_row(args.residual, t,
               x.data());  // the norm sees the rounded sum, as the next layer does
      normalize(x, weight, args.eps);
      store_row(args.out, t, x.data());
    }
  });
}

}  // namespace nanoflow::cpu::reference
