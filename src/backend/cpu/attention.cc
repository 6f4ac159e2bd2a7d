// Reference paged attention: per row and head, all scores, their softmax, the weighted sum.
#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu {

RowRange attention_rows(const PagedAttentionArgs& args, const Run& ctx) {
  const int64_t live = ctx.live(args.q.rows());
  if (args.phase == Phase::kAny) return {0, live};
  const int64_t decodes =
      std::clamp<int64_t>(args.step.header->num_decode_rows - args.rows.begin, 0, live);
  return args.phase == Phase::kDecode ? RowRange{0, decodes} : RowRange{decodes, live};
}

RowRange attended(const PagedAttentionArgs& args, int64_t position) {
  const int64_t end = position + 1;
  return {args.window > 0 ? std::max<int64_t>(0, end - args.window) : 0, end};
}

int64_t cache_offset(const PagedAttentionArgs& args, int64_t seq, int64_t position) {
  const KvCacheView& cache = args.cache;
  const int32_t* indptr = args.step.kv_page_indptr.row<int32_t>(0);
  const int64_t index = indptr[seq] + position / cache.page_size;
  NANO_CHECK(index < indptr[seq + 1], "position {} lies behind the pages of sequence {}", position,
             seq);
  const int64_t page = args.step.kv_page_indices.row<int32_t>(0)[index];
  NANO_CHECK(0 <= page && page < cache.num_pages, "page {} of {}", page, cache.num_pages);
  return page * cache.page_stride + position % cache.page_size * cache.slot_stride;
}

namespace reference {
namespace {

/// Per-thread scratch of attend().
struct Scratch {
  std::vector<float> q, kv, scores, out;
};

/// One head of one row: `out` = softmax(scale * q . K) V over positions [keys.begin, keys.end).
void attend(const PagedAttentionArgs& args, int64_t seq, int64_t kv_head, RowRange keys,
            const float* q, float* out, Scratch& s) {
  const int64_t dim = args.head_dim;
  const auto load = [&](const void* base, int64_t position) {
    const int64_t offset = cache_offset(args, seq, position) + kv_head * args.cache.head_stride;
    load_floats(static_cast<const std::byte*>(base) + offset * dtype_size(args.cache.dtype),
                args.cache.dtype, dim, s.kv.data());
  };
  s.scores.resize(static_cast<size_t>(keys.size()));
  float best = -INFINITY;
  for (int64_t p = keys.begin; p < keys.end; ++p) {
    load(args.cache.k, p);
    const float score = dot(q, s.kv.data(), dim) * args.scale;
    s.scores[static_cast<size_t>(p - keys.begin)] = score;
    best = std::max(best, score);
  }
  float sum = 0;
  std::fill(out, out + dim, 0.0f);
  for (int64_t p = keys.begin; p < keys.end; ++p) {
    const float weight = std::exp(s.scores[static_cast<size_t>(p - keys.begin)] - best);
    sum += weight;
    load(args.cache.v, p);
    for (int64_t d = 0; d < dim; ++d) out[d] += weight * s.kv[static_cast<size_t>(d)];
  }
  for (int64_t d = 0; d < dim; ++d) out[d] /= sum;
}

}  // namespace

void run(const PagedAttentionArgs& args, const Run& ctx) {
  const RowRange rows = attention_rows(args, ctx);
  const int32_t* positions = args.step.positions.row<int32_t>(0) + args.rows.begin;
  const int32_t* row_seq = args.step.row_seq.row<int32_t>(0) + args.rows.begin;
  const int64_t group = args.num_q_heads / args.num_kv_heads;
  parallel_chunks(ctx, rows.size(), 1, [&](int64_t begin, int64_t end) {
    Scratch s;
    s.q.resize(static_cast<size_t>(args.q.cols()));
    s.out.resize(s.q.size());
    s.kv.resize(static_cast<size_t>(args.head_dim));
    for (int64_t t = rows.begin + begin; t < rows.begin + end; ++t) {
      load_row(args.q, t, s.q.data());
      for (int64_t h = 0; h < args.num_q_heads; ++h)
        attend(args, row_seq[t], h / group, attended(args, positions[t]),
               s.q.data() + h * args.head_dim, s.out.data() + h * args.head_dim, s);
      store_row(args.out, t, s.out.data());
    }
  });
}

}  // namespace reference
}  // namespace nanoflow::cpu
