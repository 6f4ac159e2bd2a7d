// Reference mixture-of-experts routing, sorting and combining. The grouped GEMM is in gemm.cc.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::reference {
namespace {

/// The `out.size()` experts of highest logit (ties: lower index first) and their softmax weights.
/// A NaN logit counts as -infinity.
void route_row(std::vector<float>& logits, int32_t* ids, float* weights, int64_t choices,
               bool renormalize) {
  for (float& x : logits)
    if (std::isnan(x)) x = -INFINITY;
  std::vector<int32_t> by_logit(logits.size());
  std::iota(by_logit.begin(), by_logit.end(), 0);
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(by_logit.begin(), by_logit.begin() + choices, by_logit.end(), better);
  const float best = std::max(logits[static_cast<size_t>(by_logit[0])], -3e38f);
  float sum = 0, kept = 0;
  for (const float x : logits) sum += std::exp(x - best);
  for (int64_t c = 0; c < choices; ++c) {
    ids[c] = by_logit[static_cast<size_t>(c)];
    weights[c] = std::exp(logits[static_cast<size_t>(ids[c])] - best) / std::max(sum, 1e-38f);
    kept += weights[c];
  }
  if (!renormalize || kept <= 0) return;
  for (int64_t c = 0; c < choices; ++c) weights[c] /= kept;
}

}  // namespace

void run(const MoeRouteArgs& args, const Run& ctx) {
  parallel_chunks(ctx, ctx.live(args.logits.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> logits(static_cast<size_t>(args.logits.cols()));
    for (int64_t t = begin; t < end; ++t) {
      load_row(args.logits, t, logits.data());
      route_row(logits, args.expert_ids.row<int32_t>(t), args.expert_weights.row<float>(t),
                args.expert_ids.cols(), args.renormalize);
    }
  });
}

void run(const MoeSortArgs& args, const Run& ctx) {
  const int64_t rows = ctx.live(args.expert_ids.rows());
  const int64_t choices = args.expert_ids.cols();
  const int64_t experts = args.offsets.rows() - 1;
  int32_t* offsets = args.offsets.row<int32_t>(0);
  std::vector<int32_t> next(static_cast<size_t>(experts) + 1);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t c = 0; c < choices; ++c) {
      const int32_t expert = args.expert_ids.row<int32_t>(t)[c];
      NANO_CHECK(0 <= expert && expert < experts, "expert {} of {}", expert, experts);
      ++next[static_cast<size_t>(expert) + 1];
    }
  std::partial_sum(next.begin(), next.end(), next.begin());
  std::copy(next.begin(), next.end(), offsets);
  int32_t* order = args.order.row<int32_t>(0);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t c = 0; c < choices; ++c) {
      const auto expert = static_cast<size_t>(args.expert_ids.row<int32_t>(t)[c]);
      order[next[expert]++] = static_cast<int32_t>(t * choices + c);
    }
}

void run(const MoeCombineArgs& args, const Run& ctx) {
  const int64_t rows = ctx.live(args.out.rows());
  const int64_t choices = args.expert_weights.cols();
  const int32_t* order = args.order.row<int32_t>(0);
  std::vector<int64_t> position(static_cast<size_t>(rows * choices));
  for (int64_t i = 0; i < rows * choices; ++i) {
    NANO_CHECK(0 <= order[i] && order[i] < rows * choices, "pair {} of {}", order[i],
               rows * choices);
    position[static_cast<size_t>(order[i])] = i;
  }
  const auto cols = static_cast<size_t>(args.out.cols());
  parallel_chunks(ctx, rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(cols), x(cols);
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t c = 0; c < choices; ++c) {
        const float weight = args.expert_weights.row<float>(t)[c];
        load_row(args.x, position[static_cast<size_t>(t * choices + c)], x.data());
        for (size_t i = 0; i < cols; ++i) sum[i] += weight * x[i];
      }
      store_row(args.out, t, sum.data());
    }
  });
}

}  // namespace nanoflow::cpu::reference
