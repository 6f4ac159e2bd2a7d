// Rotary embedding with cache append, and paged attention.
#include <algorithm>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bounds.h"
#include "harness.h"

namespace nanoflow::testing_ops {
namespace {

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Heads {
  int64_t q, kv, dim;
};

/// One sequence of a step: tokens in the cache after it, and how many of them are this step's rows.
struct Seq {
  int64_t length, rows;
};

KvContent random_kv(Random& random, const KvShape& shape, const std::vector<Seq>& seqs) {
  KvContent kv{.shape = shape};
  int64_t tokens = 0;
  for (const Seq& s : seqs) {
    kv.lengths.push_back(s.length);
    tokens += s.length;
  }
  kv.k = random.normals(shape.dtype, tokens, shape.num_kv_heads * shape.head_dim);
  kv.v = random.normals(shape.dtype, tokens, shape.num_kv_heads * shape.head_dim);
  return kv;
}

class AttentionOps : public testing::Test {
 protected:
  struct Setup {
    DType dtype;
    Heads heads;
    std::vector<Seq> seqs;  ///< the first `decodes` have one row
    int64_t decodes = 0;
    Phase phase = Phase::kAny;
    int64_t window = 0;
    int64_t padding = 0;
    RowRange rows = {0, -1};  ///< of the batch; end -1: all
  };

  void check(const Setup& s) {
    Case c;
    c.kv = random_kv(random, {s.heads.kv, s.heads.dim, s.dtype}, s.seqs);
    std::vector<int32_t> positions, row_seq;
    for (size_t i = 0; i < s.seqs.size(); ++i)
      for (int64_t r = 0; r < s.seqs[i].rows; ++r) {
        positions.push_back(static_cast<int32_t>(s.seqs[i].length - s.seqs[i].rows + r));
        row_seq.push_back(static_cast<int32_t>(i));
      }
    const auto live = static_cast<int64_t>(positions.size());
    positions.resize(positions.size() + static_cast<size_t>(s.padding), -12345);
    row_seq.resize(positions.size(), 54321);
    const RowRange rows{s.rows.begin,
                        s.rows.end < 0 ? static_cast<int64_t>(positions.size()) : s.rows.end};
    c.rows = rows;
    c.has_header = true;
    c.header = {.num_rows = static_cast<int32_t>(live),
                .num_decode_rows = static_cast<int32_t>(s.decodes)};
    const int64_t q_cols = s.heads.q * s.heads.dim;
    c.tensors = {random.normals(s.dtype, rows.size(), q_cols, 2 * s.heads.kv * s.heads.dim),
                 HostTensor(s.dtype, rows.size(), q_cols, 3), int_vector(positions),
                 int_vector(row_seq)};
    c.bind = [s, rows](const Bound& b) {
      PagedAttentionArgs args{.out = b.view(1),
                              .q = b.view(0),
                              .num_q_heads = s.heads.q,
                              .num_kv_heads = s.heads.kv,
                              .head_dim = s.heads.dim,
                              .cache = b.cache(),
                              .step = b.step(),
                              .rows = rows,
                              .phase = s.phase,
                              .scale = 1 / std::sqrt(static_cast<float>(s.heads.dim)),
                              .window = s.window};
      args.step.positions = b.vector(2);
      args.step.row_seq = b.vector(3);
      return args;
    };
    const int64_t begin = s.phase == Phase::kPrefill ? std::max(s.decodes, rows.begin) : rows.begin;
    const int64_t end = std::min({rows.end, live, s.phase == Phase::kDecode ? s.decodes : live});
    c.outputs = {{1, {begin - rows.begin, std::max(begin, end) - rows.begin}, bound(c, s)}};
    expect_same(sides, c,
                fmt::format("{} heads {}/{} dim {} seqs {} decodes {} window {} rows [{}, {})",
                            dtype_name(s.dtype), s.heads.q, s.heads.kv, s.heads.dim, s.seqs.size(),
                            s.decodes, s.window, rows.begin, rows.end),
                random.seed());
  }

  /// An error d of every score moves the weights by a factor of at most e^(2d), so the result by
  /// 2d times the largest |v|; exp, sums and products of up to L terms add their roundings. Tensor
  /// cores take the weights, which sum to 1, rounded to the activation dtype.
  [[nodiscard]] ElementBound bound(const Case& c, const Setup& s) const {
    const auto dim = static_cast<double>(s.heads.dim);
    double v_max = 0, k_max = 0, q_max = 0, longest = 1;
    for (int64_t t = 0; t < c.kv.k.rows; ++t)
      for (int64_t i = 0; i < c.kv.k.cols; ++i) {
        v_max = std::max(v_max, std::abs(c.kv.v.get(t, i)));
        k_max = std::max(k_max, std::abs(c.kv.k.get(t, i)));
      }
    for (int64_t t = 0; t < c.tensors[0].rows; ++t)
      for (int64_t i = 0; i < c.tensors[0].cols; ++i)
        q_max = std::max(q_max, std::abs(c.tensors[0].get(t, i)));
    for (const Seq& seq : s.seqs) longest = std::max(longest, static_cast<double>(seq.length));
    const double score_error =
        dot_bound(q_max * std::sqrt(dim), k_max * std::sqrt(dim), s.heads.dim) / std::sqrt(dim);
    const DType dtype = s.dtype;
    const double weight_error = is_cpu(*sides.tested) ? 0 : dtype_epsilon(dtype);
    const double absolute =
        v_max * (2 * score_error + weight_error + (16 + 4 * std::sqrt(longest)) * kEps32);
    return [=](int64_t, int64_t, double want) { return absolute + store_bound(dtype, want); };
  }

  Sides sides = make_sides();
  Random random;
};

constexpr Heads kHeads[] = {{9, 3, 64}, {1, 1, 16},  {8, 1, 128},
                            {4, 4, 40}, {32, 8, 64}, {6, 2, 24}};

TEST_F(AttentionOps, Decodes) {
  const std::vector<Seq> seqs = {{1, 1}, {2, 1}, {15, 1}, {16, 1}, {17, 1}, {33, 1}, {200, 1}};
  for (const DType dtype : kDTypes)
    for (const Heads& heads : kHeads) {
      check({dtype, heads, seqs, 7, Phase::kDecode});
      check({dtype, heads, seqs, 7, Phase::kAny, 0, 3});
      check({dtype, heads, seqs, 7, Phase::kDecode, 20});
      check({dtype, heads, seqs, 7, Phase::kPrefill});
    }
}

TEST_F(AttentionOps, PrefillChunks) {
  const std::vector<Seq> seqs = {{1, 1}, {70, 70}, {130, 3}, {65, 64}, {150, 129}};
  for (const DType dtype : kDTypes)
    for (const Heads& heads : kHeads) {
      if (heads.q == 32 && dtype != DType::kBF16) continue;  // the longest of the cases
      check({dtype, heads, seqs, 0, Phase::kPrefill, 0, 2});
      check({dtype, heads, seqs, 0, Phase::kAny, 31});
      check({dtype, heads, seqs, 0, Phase::kDecode});
    }
}

TEST_F(AttentionOps, MixedBatchesCutAnywhere) {
  const std::vector<Seq> seqs = {{40, 1}, {7, 1}, {90, 1}, {50, 20}, {33, 33}};
  for (const DType dtype : kDTypes)
    for (const Phase phase : {Phase::kAny, Phase::kDecode, Phase::kPrefill})
      for (const RowRange rows :
           {RowRange{0, 60}, {0, 2}, {2, 4}, {1, 30}, {10, 58}, {57, 60}, {5, 5}})
        check({dtype, kHeads[0], seqs, 3, phase, 0, 4, rows});
}

TEST_F(AttentionOps, RopeAppend) {
  for (const DType dtype : kDTypes)
    for (const Heads& heads : {Heads{9, 3, 64}, {1, 1, 2}, {4, 4, 40}, {8, 2, 128}})
      for (const bool norms : {false, true})
        for (const int64_t live : {0, 1, 5, 11}) {
          const int64_t rows = 11, cols = (heads.q + 2 * heads.kv) * heads.dim;
          Case c;
          c.kv = random_kv(random, {heads.kv, heads.dim, dtype}, {{20, 6}, {40, 5}});
          std::vector<int32_t> positions;
          for (int64_t t = 0; t < rows; ++t) {
            const int64_t seq = t < 6 ? 0 : 1, position = t < 6 ? 14 + t : 35 + t - 6;
            positions.push_back(static_cast<int32_t>(position));
            c.appends.emplace_back(t == 3 || t >= live ? -1 : seq, position);
          }
          c.has_header = true;
          c.rows = {4, 4 + rows};
          c.header.num_rows = static_cast<int32_t>(4 + live);
          c.tensors = {random.normals(dtype, rows, cols, 2), int_vector(positions),
                       random.normals(DType::kF32, 64, heads.dim),
                       random.normals(dtype, heads.dim, 1), random.normals(dtype, heads.dim, 1)};
          c.bind = [=](const Bound& b) {
            return RopeAppendArgs{.qkv = b.view(0),
                                  .num_q_heads = heads.q,
                                  .num_kv_heads = heads.kv,
                                  .head_dim = heads.dim,
                                  .positions = b.vector(1),
                                  .kv_slots = b.kv_slots(),
                                  .cos_sin = b.view(2),
                                  .q_norm = norms ? b.vector(3) : TensorView{},
                                  .k_norm = norms ? b.vector(4) : TensorView{},
                                  .norm_eps = 1e-6f,
                                  .cache = b.cache()};
          };
          // Inputs, cosines and norm weights are normal, so under 7; a normalised head is under
          // sqrt(dim) in each element.
          const double magnitude = norms ? 49 * 2 * std::sqrt(heads.dim) : 49 * 2;
          const double terms = std::sqrt(static_cast<double>(heads.dim));
          const ElementBound bound = [=](int64_t, int64_t, double want) {
            return magnitude * (8 + terms) * kEps32 + store_bound(dtype, want);
          };
          c.outputs = {{0, {0, live}, bound}};
          c.kv_bound = bound;
          expect_same(sides, c,
                      fmt::format("rope {} heads {}/{} dim {} live {}", dtype_name(dtype), heads.q,
                                  heads.kv, heads.dim, live),
                      random.seed());
        }
}

}  // namespace
}  // namespace nanoflow::testing_ops
