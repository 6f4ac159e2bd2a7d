#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bounds.h"
#include "harness.h"

namespace nanoflow::testing_ops {
namespace {

struct MoeShape {
  int64_t rows, experts, choices;
  int64_t live;
};
constexpr MoeShape kShapes[] = {{0, 4, 2, 0}, {1, 1, 1, 1},   {1, 8, 2, 1},    {5, 8, 8, 5},
                                {7, 3, 2, 4}, {33, 8, 2, 33}, {19, 64, 6, 12}, {6, 4, 2, 0}};

class MoeOps : public testing::Test {
 protected:
  void check(Case c, const MoeShape& s, const char* name) {
    c.has_header = true;
    c.rows = {2, 2 + s.rows};
    c.header.num_rows = static_cast<int32_t>(2 + s.live);
    expect_same(sides, c,
                fmt::format("{} rows {} experts {} choices {}", name, s.rows, s.experts, s.choices),
                random.seed());
  }

  void check_grouped(const MoeShape& s, int64_t n, int64_t k, DType dtype, bool gather) {
    check_grouped(s, choices(s), n, k, dtype, gather);
  }

  void check_grouped(const MoeShape& s, const HostTensor& ids, int64_t n, int64_t k, DType dtype,
                     bool gather) {
    const int64_t pairs = s.rows * s.choices;
    auto [order, offsets] = sorted(s, ids);
    Case c;
    c.weights = {{random.normals(dtype, s.experts * n, k), WeightUse::kExperts, s.experts}};
    c.tensors = {random.normals(dtype, gather ? s.rows : pairs, k, 4),
                 HostTensor(dtype, pairs, n, 1), order, offsets};
    c.bind = [gather, s](const Bound& b) {
      return GroupedGemmArgs{.out = b.view(1),
                             .a = b.view(0),
                             .weight = b.weight(0),
                             .order = b.vector(2),
                             .offsets = b.vector(3),
                             .experts_per_token = s.choices,
                             .gather = gather};
    };
    // Rows and weights are normal: their norms are under 3 sqrt(k).
    const double bound =
        dot_bound(3 * std::sqrt(static_cast<double>(k)), 3 * std::sqrt(static_cast<double>(k)), k);
    c.outputs = {{1, {0, s.live * s.choices}, [=](int64_t, int64_t, double want) {
                    return bound + store_bound(dtype, want);
                  }}};
    check(c, s, gather ? "gathered gemm" : "grouped gemm");
  }

  /// Distinct random experts per row.
  HostTensor choices(const MoeShape& s) {
    HostTensor ids(DType::kI32, s.rows, s.choices);
    std::vector<int32_t> all(static_cast<size_t>(s.experts));
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    for (int64_t t = 0; t < s.rows; ++t) {
      std::shuffle(all.begin(), all.end(), random.engine());
      for (int64_t c = 0; c < s.choices; ++c) ids.set(t, c, all[static_cast<size_t>(c)]);
    }
    return ids;
  }

  /// order and offsets of the live rows, by definition.
  static std::pair<HostTensor, HostTensor> sorted(const MoeShape& s, const HostTensor& ids) {
    std::vector<int32_t> order, offsets = {0};
    for (int64_t e = 0; e < s.experts; ++e) {
      for (int64_t t = 0; t < s.live; ++t)
        for (int64_t c = 0; c < s.choices; ++c)
          if (static_cast<int64_t>(ids.get(t, c)) == e)
            order.push_back(static_cast<int32_t>(t * s.choices + c));
      offsets.push_back(static_cast<int32_t>(order.size()));
    }
    order.resize(static_cast<size_t>(s.rows * s.choices), -1);
    return {int_vector(order), int_vector(offsets)};
  }

  Sides sides = make_sides();
  Random random;
};

TEST_F(MoeOps, Route) {
  for (const bool renormalize : {true, false})
    for (const MoeShape& s : kShapes) {
      Case c;
      c.tensors = {random.normals(DType::kF32, s.rows, s.experts, 3),
                   HostTensor(DType::kI32, s.rows, s.choices, 1),
                   HostTensor(DType::kF32, s.rows, s.choices)};
      if (s.rows > 2) {  // ties and NaN have a defined answer
        for (int64_t e = 0; e < s.experts; ++e) c.tensors[0].set(0, e, 1.5);
        c.tensors[0].set(1, 0, std::nan(""));
      }
      c.bind = [renormalize](const Bound& b) {
        return MoeRouteArgs{.expert_ids = b.view(1),
                            .expert_weights = b.view(2),
                            .logits = b.view(0),
                            .renormalize = renormalize};
      };
      const double terms = static_cast<double>(s.experts);
      c.outputs = {{1, {0, s.live}, exact}, {2, {0, s.live}, [=](int64_t, int64_t, double want) {
                                               return elementwise_bound(want) *
                                                      (1 + std::sqrt(terms));
                                             }}};
      check(c, s, "route");
    }
}

TEST_F(MoeOps, Sort) {
  for (const MoeShape& s : kShapes) {
    Case c;
    c.tensors = {choices(s), HostTensor(DType::kI32, s.rows * s.choices, 1),
                 HostTensor(DType::kI32, s.experts + 1, 1)};
    c.bind = [](const Bound& b) {
      return MoeSortArgs{.order = b.vector(1), .offsets = b.vector(2), .expert_ids = b.view(0)};
    };
    c.outputs = {{1, {0, s.live * s.choices}, exact}, {2, {0, s.experts + 1}, exact}};
    check(c, s, "sort");
    const auto [order, offsets] = sorted(s, c.tensors[0]);
    const auto got = [&] {
      Case with_header = c;
      with_header.has_header = true;
      with_header.rows = {2, 2 + s.rows};
      with_header.header.num_rows = static_cast<int32_t>(2 + s.live);
      return run_case(*sides.tested, with_header);
    }();
    for (int64_t i = 0; i < s.live * s.choices; ++i)
      ASSERT_EQ(got[1].get(i, 0), order.get(i, 0)) << i;
    for (int64_t e = 0; e <= s.experts; ++e) ASSERT_EQ(got[2].get(e, 0), offsets.get(e, 0)) << e;
  }
}

TEST_F(MoeOps, GroupedGemm) {
  std::vector<MoeShape> shapes(std::begin(kShapes), std::end(kShapes));
  shapes.push_back({600, 4, 2, 570});  // tiles of more than 64 rows
  // Odd sizes, and such as kernels that copy 16 bytes at a time take.
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{45, 34}, {48, 72}, {264, 136}})
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      for (const bool gather : {true, false})
        for (const MoeShape& s : shapes) check_grouped(s, n, k, dtype, gather);
}

/// Sizes around those at which tiles of tokens begin, change their width and end.
TEST_F(MoeOps, GroupedGemmOfUnequalExperts) {
  const std::vector<std::vector<int64_t>> sizes = {
      {0, 1, 7, 63, 64, 65, 127, 128, 129, 0},
      {148, 200, 255, 0, 256, 257, 500, 1},
      {0, 0, 700, 0, 16, 33},
      {0, 500, 1, 0, 65, 64, 63, 0, 17, 16, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}};
  for (const std::vector<int64_t>& counts : sizes) {
    MoeShape s{0, static_cast<int64_t>(counts.size()), 1, 0};
    for (const int64_t count : counts) s.rows += count;
    s.live = s.rows;
    HostTensor ids(DType::kI32, s.rows, 1);
    int64_t row = 0;
    for (size_t e = 0; e < counts.size(); ++e)
      for (int64_t i = 0; i < counts[e]; ++i)  // 7919 is prime: the experts' rows are mixed
        ids.set(row++ * 7919 % s.rows, 0, static_cast<double>(e));
    for (const DType dtype : {DType::kBF16, DType::kF16})
      for (const bool gather : {true, false}) check_grouped(s, ids, 264, 328, dtype, gather);
  }
}

TEST_F(MoeOps, Combine) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
    for (const MoeShape& s : kShapes) {
      auto [order, offsets] = sorted(s, choices(s));
      Case c;
      c.tensors = {random.normals(dtype, s.rows * s.choices, 37, 2), order,
                   random.normals(DType::kF32, s.rows, s.choices),
                   HostTensor(dtype, s.rows, 37, 1)};
      c.bind = [](const Bound& b) {
        return MoeCombineArgs{
            .out = b.view(3), .x = b.view(0), .order = b.vector(1), .expert_weights = b.view(2)};
      };
      const double bound = dot_bound(5 * std::sqrt(s.choices), 5 * std::sqrt(s.choices), s.choices);
      c.outputs = {{3, {0, s.live}, [=](int64_t, int64_t, double want) {
                      return bound + store_bound(dtype, want);
                    }}};
      check(c, s, "combine");
    }
}

}  // namespace
}  // namespace nanoflow::testing_ops
