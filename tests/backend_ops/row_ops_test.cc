// Ops that work row by row: norms, SiLU, embedding, gather.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bounds.h"
#include "harness.h"

namespace nanoflow::testing_ops {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Shape {
  int64_t rows, cols, gap;
  int64_t live = -1;  ///< -1: no header
};
constexpr Shape kShapes[] = {{0, 16, 0}, {1, 1, 0},    {1, 7, 3},     {3, 16, 0},    {5, 33, 1},
                             {8, 64, 8}, {17, 576, 0}, {4, 2049, 15}, {9, 40, 2, 4}, {6, 48, 0, 0}};

class RowOps : public testing::Test {
 protected:
  template <typename Make>
  void for_all(const Make& make) {
    for (const DType dtype : kDTypes)
      for (const Shape& s : kShapes) {
        Case c = make(dtype, s);
        const int64_t live = s.live < 0 ? s.rows : s.live;
        c.has_header = s.live >= 0;
        c.rows = {10, 10 + s.rows};
        c.header.num_rows = static_cast<int32_t>(10 + live);
        for (Output& output : c.outputs) output.written = {0, live};
        expect_same(sides, c, fmt::format("{} [{}, {}]", dtype_name(dtype), s.rows, s.cols),
                    random.seed());
      }
  }
  Sides sides = make_sides();
  Random random;
};

TEST_F(RowOps, RmsNorm) {
  for_all([&](DType dtype, const Shape& s) {
    Case c;
    c.tensors = {random.normals(dtype, s.rows, s.cols, s.gap), random.normals(dtype, s.cols, 1),
                 HostTensor(dtype, s.rows, s.cols, s.gap / 2)};
    c.bind = [](const Bound& b) {
      return RmsNormArgs{.out = b.view(2), .x = b.view(0), .weight = b.vector(1), .eps = 1e-5f};
    };
    const double terms = static_cast<double>(s.cols);
    c.outputs = {{2, {}, [=](int64_t, int64_t, double want) {
                    return std::abs(want) * (8 + std::sqrt(terms)) * kEps32 +
                           store_bound(dtype, want);
                  }}};
    return c;
  });
}

TEST_F(RowOps, RmsNormInPlace) {
  for_all([&](DType dtype, const Shape& s) {
    Case c;
    c.tensors = {random.normals(dtype, s.rows, s.cols, s.gap), random.normals(dtype, s.cols, 1)};
    c.bind = [](const Bound& b) {
      return RmsNormArgs{.out = b.view(0), .x = b.view(0), .weight = b.vector(1), .eps = 1e-6f};
    };
    const double terms = static_cast<double>(s.cols);
    c.outputs = {{0, {}, [=](int64_t, int64_t, double want) {
                    return std::abs(want) * (8 + std::sqrt(terms)) * kEps32 +
                           store_bound(dtype, want);
                  }}};
    return c;
  });
}

TEST_F(RowOps, AddRmsNorm) {
  for (const bool replace : {false, true})
    for_all([&](DType dtype, const Shape& s) {
      Case c;
      c.tensors = {random.normals(dtype, s.rows, s.cols, s.gap),
                   random.normals(dtype, s.rows, s.cols, s.gap / 2),
                   random.normals(dtype, s.cols, 1), HostTensor(dtype, s.rows, s.cols)};
      c.bind = [replace](const Bound& b) {
        return AddRmsNormArgs{.out = b.view(3),
                              .residual = b.view(0),
                              .delta = b.view(1),
                              .weight = b.vector(2),
                              .eps = 1e-5f,
                              .replace = replace};
      };
      const double terms = static_cast<double>(s.cols);
      c.outputs = {{0, {}, exact}, {3, {}, [=](int64_t, int64_t, double want) {
                                      return std::abs(want) * (8 + std::sqrt(terms)) * kEps32 +
                                             store_bound(dtype, want);
                                    }}};
      return c;
    });
}

TEST_F(RowOps, SiluMul) {
  for (const double scale : {1.0, 60.0})  // 60: both tails of the sigmoid
    for_all([&](DType dtype, const Shape& s) {
      Case c;
      c.tensors = {random.normals(dtype, s.rows, 2 * s.cols, s.gap, scale),
                   HostTensor(dtype, s.rows, s.cols, s.gap)};
      c.bind = [](const Bound& b) { return SiluMulArgs{.out = b.view(1), .gate_up = b.view(0)}; };
      c.outputs = {{1, {}, [=](int64_t, int64_t, double want) {
                      // Below gate -80 the fast kernel's quotient is under 80 * e^-80 * |up|.
                      return elementwise_bound(want) + store_bound(dtype, want) + 1e-29;
                    }}};
      return c;
    });
}

TEST_F(RowOps, EmbedTakesIdsAndLastTokens) {
  for_all([&](DType dtype, const Shape& s) {
    Case c;
    HostTensor ids = random.ints(s.rows, 1, 11);
    for (int64_t t = 0; t < s.rows; t += 3) ids.set(t, 0, static_cast<double>(~random.below(4)));
    c.tensors = {random.normals(dtype, 11, s.cols, s.gap), ids, random.ints(4, 1, 11),
                 HostTensor(dtype, s.rows, s.cols, s.gap)};
    c.bind = [](const Bound& b) {
      return EmbedArgs{.out = b.view(3),
                       .table = b.view(0),
                       .token_ids = b.vector(1),
                       .last_token = b.vector(2)};
    };
    c.outputs = {{3, {}, exact}};
    return c;
  });
}

TEST_F(RowOps, GatherRows) {
  for_all([&](DType dtype, const Shape& s) {
    Case c;
    c.tensors = {random.normals(dtype, 13, s.cols, s.gap), random.ints(s.rows, 1, 13),
                 HostTensor(dtype, s.rows, s.cols)};
    c.bind = [](const Bound& b) {
      return GatherRowsArgs{.out = b.view(2), .x = b.view(0), .index = b.vector(1)};
    };
    c.outputs = {{2, {}, exact}};
    return c;
  });
}

TEST_F(RowOps, CollectivesOfOneRankKeepTheirInput) {
  for_all([&](DType dtype, const Shape& s) {
    Case c;
    c.tensors = {random.normals(dtype, s.rows, s.cols, s.gap), HostTensor(dtype, s.rows, s.cols)};
    c.bind = [](const Bound& b) { return AllGatherArgs{.out = b.view(1), .x = b.view(0)}; };
    c.outputs = {{1, {}, exact}};
    return c;
  });
}

}  // namespace
}  // namespace nanoflow::testing_ops
