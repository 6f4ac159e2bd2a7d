// Attention of one row over blocks of 16 cached tokens, softmax online (Milakov & Gimelshein 2018).
#include <algorithm>
#include <array>
#include <cmath>

#include "backend/cpu/element.h"
#include "backend/cpu/fast_attention.h"
#include "backend/cpu/vector_math.h"

namespace nanoflow::cpu::fast {
namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxGroup = 16;

/// Vectors of even or odd-and-even neighbours' sums: one level of a tree that adds up 16 vectors.
NANO_INLINE Floats add_neighbours(Floats a, Floats b) {
  const Floats even =
      __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Floats odd =
      __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return even + odd;
}

/// Element i of the result is the sum of rows[i].
NANO_INLINE Floats sum_rows(const Floats* rows) {
  Floats level[8];
  for (int i = 0; i < 8; ++i) level[i] = add_neighbours(rows[2 * i], rows[2 * i + 1]);
  for (int i = 0; i < 4; ++i) level[i] = add_neighbours(level[2 * i], level[2 * i + 1]);
  for (int i = 0; i < 2; ++i) level[i] = add_neighbours(level[2 * i], level[2 * i + 1]);
  return add_neighbours(level[0], level[1]);
}

/// The running state of the group's query heads.
struct Heads {
  alignas(64) float q[kMaxGroup * kMaxHeadDim];
  alignas(64) float out[kMaxGroup * kMaxHeadDim];
  alignas(64) float weights[kMaxGroup * kSimd];
  float best[kMaxGroup];
  float total[kMaxGroup];
};

/// 16 tokens' rows of K or V; those outside the attended range repeat one inside.
template <typename T>
using Tokens = std::array<const T*, kSimd>;

template <typename T>
NANO_INLINE void score(const Tokens<T>& keys, Heads& h, int64_t group, int64_t dim) {
  for (int64_t g = 0; g < group; ++g) {
    Floats products[kSimd];
    for (size_t t = 0; t < kSimd; ++t) {
      Floats acc = load(h.q + g * dim) * load(keys[t]);
      for (int64_t d = kSimd; d < dim; d += kSimd)
        acc += load(h.q + g * dim + d) * load(keys[t] + d);
      products[t] = acc;
    }
    store(h.weights + g * kSimd, sum_rows(products));
  }
}

/// Turns the block's scores into weights and rescales what was summed before. `inside` is all ones
/// for tokens that are attended to.
NANO_INLINE void update_softmax(Heads& h, int64_t group, int64_t dim, Ints inside) {
  for (int64_t g = 0; g < group; ++g) {
    const Floats scores = inside ? load(h.weights + g * kSimd) : splat(-INFINITY);
    const float best = std::max(h.best[g], max(scores));
    const Floats weights = exp(scores - best);
    store(h.weights + g * kSimd, weights);
    if (best > h.best[g]) {
      const float shrink = std::exp(h.best[g] - best);
      h.total[g] *= shrink;
      for (int64_t d = 0; d < dim; d += kSimd)
        store(h.out + g * dim + d, load(h.out + g * dim + d) * shrink);
      h.best[g] = best;
    }
    h.total[g] += sum(weights);
  }
}

template <typename T, int kGroup>
NANO_INLINE void add_values(const Tokens<T>& values, Heads& h, int64_t first, int64_t dim) {
  for (int64_t d = 0; d < dim; d += kSimd) {
    Floats acc[kGroup];
    NANO_UNROLL
    for (int g = 0; g < kGroup; ++g) acc[g] = load(h.out + (first + g) * dim + d);
    for (size_t t = 0; t < kSimd; ++t) {
      const Floats v = load(values[t] + d);
      NANO_UNROLL
      for (int g = 0; g < kGroup; ++g)
        acc[g] += v * h.weights[(first + g) * kSimd + static_cast<int64_t>(t)];
    }
    NANO_UNROLL
    for (int g = 0; g < kGroup; ++g) store(h.out + (first + g) * dim + d, acc[g]);
  }
}

template <typename T>
NANO_INLINE void add_all_values(const Tokens<T>& values, Heads& h, int64_t group, int64_t dim) {
  int64_t first = 0;
  for (; first + 4 <= group; first += 4) add_values<T, 4>(values, h, first, dim);
  if (group - first == 3) add_values<T, 3>(values, h, first, dim);
  if (group - first == 2) add_values<T, 2>(values, h, first, dim);
  if (group - first == 1) add_values<T, 1>(values, h, first, dim);
}

template <typename T>
void decode(const PagedAttentionArgs& args, int64_t seq, RowRange attends, int64_t kv_head,
            Heads& h) {
  const int64_t group = args.num_q_heads / args.num_kv_heads, dim = args.head_dim;
  const T* k = static_cast<const T*>(args.cache.k) + kv_head * args.cache.head_stride;
  const T* v = static_cast<const T*>(args.cache.v) + kv_head * args.cache.head_stride;
  Tokens<T> keys, values;
  for (int64_t block = attends.begin / kSimd * kSimd; block < attends.end; block += kSimd) {
    Ints inside;
    int64_t page_end = 0, offset = 0;  // offset of the token before page_end, once it is known
    for (int64_t t = 0; t < kSimd; ++t) {
      const int64_t position = block + t;
      inside[t] = position >= attends.begin && position < attends.end ? -1 : 0;
      if (position >= page_end) {
        const int64_t known = std::clamp(position, attends.begin, attends.end - 1);
        offset = cache_offset(args, seq, known);
        page_end = known / args.cache.page_size * args.cache.page_size + args.cache.page_size;
      } else if (position < attends.end && position > attends.begin) {
        offset += args.cache.slot_stride;
      }
      keys[static_cast<size_t>(t)] = k + offset;
      values[static_cast<size_t>(t)] = v + offset;
    }
    score(keys, h, group, dim);
    update_softmax(h, group, dim, inside);
    add_all_values(values, h, group, dim);
  }
}

}  // namespace

bool has_decode_kernel(const PagedAttentionArgs& args) {
  return args.head_dim % kSimd == 0 && args.head_dim <= kMaxHeadDim &&
         args.num_q_heads / args.num_kv_heads <= kMaxGroup;
}

void decode_item(const PagedAttentionArgs& args, int64_t row, int64_t kv_head) {
  const int64_t group = args.num_q_heads / args.num_kv_heads, dim = args.head_dim;
  const int64_t batch_row = args.rows.begin + row;
  const int64_t count = group * dim, element = dtype_size(args.q.dtype());
  Heads h;
  load_floats(row_data(args.q, row) + kv_head * count * element, args.q.dtype(), count, h.q);
  for (int64_t i = 0; i < count; ++i) h.q[i] *= args.scale;
  std::fill_n(h.out, count, 0.0f);
  std::fill_n(h.best, group, -INFINITY);
  std::fill_n(h.total, group, 0.0f);
  const RowRange attends = attended(args, args.step.positions.row<int32_t>(0)[batch_row]);
  const int32_t seq = args.step.row_seq.row<int32_t>(0)[batch_row];
  with_element_type(args.cache.dtype,
                    [&]<typename T>(T) { decode<T>(args, seq, attends, kv_head, h); });
  for (int64_t g = 0; g < group; ++g)
    for (int64_t d = 0; d < dim; ++d) h.out[g * dim + d] /= h.total[g];
  store_floats(mutable_row_data(args.out, row) + kv_head * count * element, args.out.dtype(), count,
               h.out);
}

}  // namespace nanoflow::cpu::fast
