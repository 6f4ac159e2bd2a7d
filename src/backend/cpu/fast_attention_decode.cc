// Attention of one row over blocks of 16 cached tokens, softmax online (Milakov & Gimelshein 2018).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "backend/cpu/element.h"
#include "backend/cpu/fast_attention.h"
#include "backend/cpu/gemm_panels.h"
#include "backend/cpu/vector_math.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define NANO_BF16_DOT __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

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
  for (int64_t i = 0; i < 8; ++i) level[i] = add_neighbours(rows[2 * i], rows[2 * i + 1]);
  for (int64_t i = 0; i < 4; ++i) level[i] = add_neighbours(level[2 * i], level[2 * i + 1]);
  for (int64_t i = 0; i < 2; ++i) level[i] = add_neighbours(level[2 * i], level[2 * i + 1]);
  return add_neighbours(level[0], level[1]);
}

/// The running state of the group's query heads.
struct Heads {
  alignas(64) float q[kMaxGroup * kMaxHeadDim];
  alignas(64) BFloat16 q_pairs[kMaxGroup * kMaxHeadDim];  // instead of q, when uses_pairs
  bool uses_pairs = false;
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

#if defined(__x86_64__)
/// products[t] = 16 partial sums of q . keys[t], by multiplication of bfloat16 pairs, which needs
/// no conversion. dim is a multiple of 32. (Plain memory in and out: vectors must not cross into a
/// function that is compiled for another instruction set.)
NANO_BF16_DOT void multiply_pairs(const Tokens<BFloat16>& keys, const BFloat16* q, int64_t dim,
                                  float* products) {
  for (size_t t = 0; t < kSimd; ++t) {
    __m512 acc = _mm512_setzero_ps();
    for (int64_t d = 0; d < dim; d += 2 * kSimd)
      acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(q + d),
                             (__m512bh)_mm512_loadu_si512(keys[t] + d));
    _mm512_storeu_ps(products + t * kSimd, acc);
  }
}
#else
void multiply_pairs(const Tokens<BFloat16>&, const BFloat16*, int64_t, float*) {}
#endif

/// score() for bfloat16 queries and keys.
NANO_INLINE void score_pairs(const Tokens<BFloat16>& keys, Heads& h, int64_t group, int64_t dim) {
  alignas(64) float memory[kSimd * kSimd];
  for (int64_t g = 0; g < group; ++g) {
    multiply_pairs(keys, h.q_pairs + g * dim, dim, memory);
    Floats products[kSimd];
    for (int64_t t = 0; t < kSimd; ++t) products[t] = load(memory + t * kSimd);
    store(h.weights + g * kSimd, sum_rows(products));
  }
}

/// Turns the block's scores into weights and rescales what was summed before. `inside` is all ones
/// for tokens that are attended to.
NANO_INLINE void update_softmax(Heads& h, int64_t group, int64_t dim, float scale, Ints inside) {
  for (int64_t g = 0; g < group; ++g) {
    const Floats scores = inside ? load(h.weights + g * kSimd) * scale : splat(-INFINITY);
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

/// One block of 16 tokens from `first`: where their keys and values are, and which are attended to.
template <typename T>
struct TokenBlock {
  Tokens<T> keys, values;
  Ints inside;
};

template <typename T>
NANO_INLINE void locate(const PagedAttentionArgs& args, int64_t seq, RowRange attends,
                        int64_t kv_head, int64_t first, TokenBlock<T>& block) {
  const T* k = static_cast<const T*>(args.cache.k) + kv_head * args.cache.head_stride;
  const T* v = static_cast<const T*>(args.cache.v) + kv_head * args.cache.head_stride;
  int64_t page_end = 0, offset = 0;
  for (int64_t t = 0; t < kSimd; ++t) {
    const int64_t position = first + t;
    block.inside[t] = position >= attends.begin && position < attends.end ? -1 : 0;
    if (position >= page_end) {
      const int64_t known = std::clamp(position, attends.begin, attends.end - 1);
      offset = cache_offset(args, seq, known);
      page_end = (known / args.cache.page_size + 1) * args.cache.page_size;
    } else if (position < attends.end && position > attends.begin) {
      offset += args.cache.slot_stride;
    }
    block.keys[static_cast<size_t>(t)] = k + offset;
    block.values[static_cast<size_t>(t)] = v + offset;
  }
}

/// Asks for the next block's keys or values, one region at a time and into the second-level cache:
/// hardware then streams ahead. Decoding 64 sequences of 1,024 tokens (float32, one core of an EPYC
/// with AVX-512) read 6.4 GB/s without this, 9.1 with keys and values interleaved, 16.6 as it is.
template <typename T>
NANO_INLINE void prefetch(const Tokens<T>& tokens, int64_t dim) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (size_t t = 0; t < kSimd; ++t)
    for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(tokens[t] + d, 0, 2);
}

template <typename T>
void decode(const PagedAttentionArgs& args, int64_t seq, RowRange attends, int64_t kv_head,
            Heads& h) {
  const int64_t group = args.num_q_heads / args.num_kv_heads, dim = args.head_dim;
  const int64_t begin = attends.begin / kSimd * kSimd;
  TokenBlock<T> block{}, next{};
  locate(args, seq, attends, kv_head, begin, next);
  for (int64_t first = begin; first < attends.end; first += kSimd) {
    block = next;
    if (first + kSimd < attends.end) {
      locate(args, seq, attends, kv_head, first + kSimd, next);
      prefetch<T>(next.keys, dim);
    }
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (h.uses_pairs) {
        score_pairs(block.keys, h, group, dim);
      } else {
        score(block.keys, h, group, dim);
      }
    } else {
      score(block.keys, h, group, dim);
    }
    update_softmax(h, group, dim, args.scale, block.inside);
    prefetch<T>(next.values, dim);
    add_all_values(block.values, h, group, dim);
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
  const std::byte* q = row_data(args.q, row) + kv_head * count * element;
  h.uses_pairs =
      panel_input_dtype(args.q.dtype(), args.cache.dtype) == DType::kBF16 && dim % (2 * kSimd) == 0;
  if (h.uses_pairs) {
    std::memcpy(static_cast<void*>(h.q_pairs), q, static_cast<size_t>(count * element));
  } else {
    load_floats(q, args.q.dtype(), count, h.q);
  }
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
