// Reference rotary embedding with optional per-head norm, and the append to the paged cache.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/element.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::reference {
namespace {

void normalize_head(float* x, const std::vector<float>& weight, float eps) {
  const auto n = static_cast<int64_t>(weight.size());
  const float scale = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (size_t i = 0; i < weight.size(); ++i) x[i] = x[i] * scale * weight[i];
}

/// (x[i], x[i + D/2]) is rotated by the angle whose cosine and sine are cos_sin[i], cos_sin[D/2+i].
void rotate_head(float* x, const float* cos_sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float c = cos_sin[i], s = cos_sin[half + i];
    const float first = x[i], second = x[half + i];
    x[i] = first * c - second * s;
    x[half + i] = second * c + first * s;
  }
}

/// Writes all heads of one token to its cache slot. `x` has been rounded to the activation dtype.
void append(const RopeAppendArgs& args, void* base, int64_t slot, const float* x) {
  const KvCacheView& cache = args.cache;
  const int64_t page = slot / cache.page_size;
  NANO_CHECK(page < cache.num_pages, "slot {} lies behind {} pages", slot, cache.num_pages);
  const int64_t token = page * cache.page_stride + slot % cache.page_size * cache.slot_stride;
  for (int64_t h = 0; h < args.num_kv_heads; ++h)
    store_floats(
        static_cast<std::byte*>(base) + (token + h * cache.head_stride) * dtype_size(cache.dtype),
        cache.dtype, args.head_dim, x + h * args.head_dim);
}

}  // namespace

void run(const RopeAppendArgs& args, const Run& ctx) {
  const bool has_q_norm = args.q_norm.rank() != 0, has_k_norm = args.k_norm.rank() != 0;
  const std::vector<float> q_norm = has_q_norm ? load_vector(args.q_norm) : std::vector<float>{};
  const std::vector<float> k_norm = has_k_norm ? load_vector(args.k_norm) : std::vector<float>{};
  const int32_t* positions = args.positions.row<int32_t>(0);
  const int32_t* slots = args.kv_slots.row<int32_t>(0);
  const int64_t rotated_heads = args.num_q_heads + args.num_kv_heads;
  parallel_chunks(ctx, ctx.live(args.qkv.rows()), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(args.qkv.cols()));
    for (int64_t t = begin; t < end; ++t) {
      NANO_CHECK(0 <= positions[t] && positions[t] < args.cos_sin.rows(), "position {} of {}",
                 positions[t], args.cos_sin.rows());
      load_row(args.qkv, t, row.data());
      for (int64_t h = 0; h < rotated_heads; ++h) {
        float* head = row.data() + h * args.head_dim;
        const bool is_query = h < args.num_q_heads;
        if (is_query && has_q_norm) normalize_head(head, q_norm, args.norm_eps);
        if (!is_query && has_k_norm) normalize_head(head, k_norm, args.norm_eps);
        rotate_head(head, args.cos_sin.row<float>(positions[t]), args.head_dim);
      }
      store_floats(mutable_row_data(args.qkv, t), args.qkv.dtype(), rotated_heads * args.head_dim,
                   row.data());
      if (slots[t] < 0) continue;
      load_row(args.qkv, t, row.data());
      append(args, args.cache.k, slots[t], row.data() + args.num_q_heads * args.head_dim);
      append(args, args.cache.v, slots[t], row.data() + rotated_heads * args.head_dim);
    }
  });
}

}  // namespace nanoflow::cpu::reference
