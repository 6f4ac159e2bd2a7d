// A row of the CPU's GEMM and attention has the same bits in any batch, at any place in it.
#include <cstring>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "harness.h"

namespace nanoflow::testing_ops {
namespace {

HostTensor some_rows(const HostTensor& t, int64_t begin, int64_t end) {
  HostTensor out(t.dtype, end - begin, t.cols);
  for (int64_t r = begin; r < end; ++r)
    for (int64_t c = 0; c < t.cols; ++c) out.set(r - begin, c, t.get(r, c));
  return out;
}

TEST(RowBits, OfGemmDoNotDependOnTheBatch) {
  Random random;
  Sides sides = make_sides();
  for (Backend* backend : {sides.reference.get(), sides.tested.get()}) {
    if (!is_cpu(*backend)) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const int64_t rows = 61, n = 200, k = 512;
      const HostTensor a = random.normals(dtype, rows, k), w = random.normals(dtype, n, k);
      const auto run = [&](int64_t begin, int64_t end) {
        Case c;
        c.weights = {{w}};
        c.tensors = {some_rows(a, begin, end), HostTensor(DType::kF32, end - begin, n)};
        c.bind = [](const Bound& b) {
          return GemmArgs{.out = b.view(1), .a = b.view(0), .weight = b.weight(0)};
        };
        return run_case(*backend, c)[1];
      };
      const HostTensor whole = run(0, rows);
      for (const auto& [begin, end] :
           {std::pair<int64_t, int64_t>{0, 1}, {1, 3}, {3, 6}, {6, 13}, {13, 30}, {30, 61}}) {
        const HostTensor part = run(begin, end);
        for (int64_t r = begin; r < end; ++r)
          for (int64_t c = 0; c < n; ++c)
            ASSERT_EQ(part.get(r - begin, c), whole.get(r, c))
                << dtype_name(dtype) << " row " << r << " of [" << begin << ", " << end << ")";
      }
    }
  }
}

TEST(RowBits, OfAttentionDoNotDependOnTheCut) {
  Random random;
  Sides sides = make_sides();
  const int64_t decodes = 2, chunk = 150, rows = decodes + chunk, dim = 64, heads = 6;
  for (Backend* backend : {sides.reference.get(), sides.tested.get()}) {
    if (!is_cpu(*backend)) continue;
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Case c;
      c.kv.shape = {2, dim, dtype};
      c.kv.lengths = {70, 33, 200};
      c.kv.k = random.normals(dtype, 303, 2 * dim);
      c.kv.v = random.normals(dtype, 303, 2 * dim);
      std::vector<int32_t> positions = {69, 32}, row_seq = {0, 1};
      for (int32_t i = 0; i < chunk; ++i) {
        positions.push_back(50 + i);
        row_seq.push_back(2);
      }
      const HostTensor q = random.normals(dtype, rows, heads * dim);
      c.header = {.num_rows = static_cast<int32_t>(rows), .num_decode_rows = decodes};
      c.has_header = true;
      const auto run = [&](int64_t begin, int64_t end) {
        c.rows = {begin, end};
        c.tensors = {some_rows(q, begin, end), HostTensor(dtype, end - begin, heads * dim),
                     int_vector(positions), int_vector(row_seq)};
        c.bind = [=](const Bound& b) {
          PagedAttentionArgs args{.out = b.view(1),
                                  .q = b.view(0),
                                  .num_q_heads = heads,
                                  .num_kv_heads = 2,
                                  .head_dim = dim,
                                  .cache = b.cache(),
                                  .step = b.step(),
                                  .rows = {begin, end},
                                  .scale = 0.125f};
          args.step.positions = b.vector(2);
          args.step.row_seq = b.vector(3);
          return args;
        };
        return run_case(*backend, c)[1];
      };
      const HostTensor whole = run(0, rows);
      for (const auto& [begin, end] :
           {std::pair<int64_t, int64_t>{0, 1}, {1, 3}, {3, 50}, {50, 51}, {51, 152}}) {
        const HostTensor part = run(begin, end);
        for (int64_t r = begin; r < end; ++r)
          for (int64_t i = 0; i < heads * dim; ++i)
            ASSERT_EQ(part.get(r - begin, i), whole.get(r, i)) << dtype_name(dtype) << " row " << r;
      }
    }
  }
}

}  // namespace
}  // namespace nanoflow::testing_ops
