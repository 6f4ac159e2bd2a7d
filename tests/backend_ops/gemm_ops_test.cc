#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bounds.h"
#include "harness.h"

namespace nanoflow::testing_ops {
namespace {

struct GemmShape {
  int64_t m, n, k;
  int64_t gap = 0;
  int64_t live = -1;
};

struct Types {
  DType a, weight, out;
};

class GemmOps : public testing::Test {
 protected:
  void check(const GemmShape& s, const Types& types, bool has_bias) {
    Case c;
    c.weights = {{random.normals(types.weight, s.n, s.k, s.gap)}};
    c.tensors = {random.normals(types.a, s.m, s.k, s.gap),
                 HostTensor(types.out, s.m, s.n, s.gap / 2), random.normals(types.a, s.n, 1)};
    c.bind = [has_bias](const Bound& b) {
      return GemmArgs{.out = b.view(1),
                      .a = b.view(0),
                      .weight = b.weight(0),
                      .bias = has_bias ? b.vector(2) : TensorView{}};
    };
    c.has_header = s.live >= 0;
    c.rows = {3, 3 + s.m};
    c.header.num_rows = static_cast<int32_t>(3 + s.live);
    std::vector<double> a_norm, w_norm;
    for (int64_t r = 0; r < s.m; ++r) a_norm.push_back(row_norm(c.tensors[0], r));
    for (int64_t r = 0; r < s.n; ++r) w_norm.push_back(row_norm(c.weights[0].data, r));
    const DType out = types.out;
    c.outputs = {{1, {0, s.live < 0 ? s.m : s.live}, [=](int64_t r, int64_t col, double want) {
                    return dot_bound(a_norm[static_cast<size_t>(r)],
                                     w_norm[static_cast<size_t>(col)], s.k) +
                           elementwise_bound(want) + 1e-6 * has_bias + store_bound(out, want);
                  }}};
    expect_same(sides, c,
                fmt::format("{}x{}->{} m {} n {} k {}", dtype_name(types.a),
                            dtype_name(types.weight), dtype_name(out), s.m, s.n, s.k),
                random.seed());
  }
  Sides sides = make_sides();
  Random random;
};

constexpr Types kTypes[] = {
    {DType::kF32, DType::kF32, DType::kF32},   {DType::kBF16, DType::kBF16, DType::kBF16},
    {DType::kBF16, DType::kBF16, DType::kF32}, {DType::kF16, DType::kF16, DType::kF16},
    {DType::kF32, DType::kBF16, DType::kF32},  {DType::kF16, DType::kF16, DType::kF32}};

TEST_F(GemmOps, EdgesOfTilesAndPanels) {
  const GemmShape shapes[] = {{0, 32, 16},  {1, 1, 1},     {1, 31, 7},   {2, 33, 8},
                              {3, 130, 17}, {4, 64, 64},   {7, 65, 40},  {8, 95, 39},
                              {13, 32, 96}, {14, 96, 128}, {15, 97, 33}, {29, 160, 50}};
  for (const Types& types : kTypes)
    for (const GemmShape& s : shapes) check(s, types, s.m % 2 == 1);
}

TEST_F(GemmOps, EveryRowCountUpToThreeTiles) {
  for (int64_t m = 1; m <= 43; ++m)
    check({m, 128 + m, 66, m % 3}, kTypes[static_cast<size_t>(m % 3)], false);
}

TEST_F(GemmOps, StridedViewsAndPaddingRows) {
  for (const Types& types : kTypes) {
    check({9, 70, 48, 16}, types, true);
    check({21, 70, 48, 5, 13}, types, false);
    check({6, 70, 48, 0, 0}, types, false);
  }
}

TEST_F(GemmOps, LongReductionsWhoseRowsShareCacheSets) {
  check({20, 96, 2048}, kTypes[0], false);
  check({20, 96, 2048}, kTypes[1], false);
  check({5, 64, 4096}, kTypes[2], true);
}

// What a GPU multiplies by reading the weights once: every count of rows, k that ends inside a
// block's step, n that ends inside a tile, rows behind the live ones.
TEST_F(GemmOps, FewRows) {
  for (const size_t types : {size_t{1}, size_t{2}, size_t{3}, size_t{5}}) {
    for (int64_t m = 1; m <= 17; ++m)
      check({m, 16 * (m % 3) + m, 8 * (m + 1) + 512 * (m % 4)}, kTypes[types], m % 2 == 0);
    check({8, 50, 3080, 8, 1}, kTypes[types], types != 5);
    check({16, 33, 4096, 16, 9}, kTypes[types], types == 1);
    check({16, 40, 1536, 8, 0}, kTypes[types], false);
    check({5, 4099, 64}, kTypes[types], true);
  }
}

TEST_F(GemmOps, ManyRowsOfFewPanels) {
  check({300, 40, 64}, kTypes[0], true);
  check({300, 40, 64}, kTypes[1], false);
}

}  // namespace
}  // namespace nanoflow::testing_ops
