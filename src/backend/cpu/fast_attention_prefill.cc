// Attention of a block of rows over tiles of 64 cached tokens, as two small panel products with an
// online softmax between them (Dao et al. 2022, algorithm 1). K is packed as the panels of a weight
// [64 tokens, head_dim], V as those of [head_dim, 64 tokens].
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/element.h"
#include "backend/cpu/fast_attention.h"
#include "backend/cpu/gemm_panels.h"
#include "backend/cpu/gemm_tiles.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/vector_math.h"

namespace nanoflow::cpu::fast {
namespace {

constexpr int64_t kTokens = 64;  // of one tile
/// Query vectors (rows times heads of the group) of one block: their scores and sums stay in a
/// second-level cache of 1 MiB, and packing a tile is under a tenth of the arithmetic on it.
constexpr int64_t kQueries = 128;

int64_t padded(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

bool uses_pairs(const PagedAttentionArgs& args) {
  return panel_input_dtype(args.q.dtype(), args.cache.dtype) == DType::kBF16 &&
         args.head_dim % 2 == 0;
}

/// One thread's memory for one item.
struct Tile {
  int64_t queries = 0, dim = 0, wide_dim = 0;  // wide_dim: dim up to whole panels
  float* q = nullptr;                          // [queries, dim], or bfloat16
  std::byte* keys = nullptr;                   // two panels of depth dim
  float* values = nullptr;                     // wide_dim / 32 panels of depth kTokens
  float* scores = nullptr;                     // [queries, kTokens]
  float* out = nullptr;                        // [queries, wide_dim]
  float* best = nullptr;                       // [queries]
  float* total = nullptr;                      // [queries]
  float* product = nullptr;                    // one tile of gemm_tiles.h
  float* token = nullptr;                      // [wide_dim]
};

/// Places a Tile in `base`; returns the bytes used. Null base: only counts.
int64_t place(const PagedAttentionArgs& args, std::byte* base, Tile& tile) {
  tile.dim = args.head_dim;
  tile.wide_dim = padded(tile.dim, kPanelCols);
  tile.queries = prefill_block_rows(args) * (args.num_q_heads / args.num_kv_heads);
  int64_t used = 0;
  const auto take = [&](int64_t floats) {
    const int64_t at = used;
    used += Scratch::bytes<float>(floats);
    return base == nullptr ? nullptr : reinterpret_cast<float*>(base + at);
  };
  tile.q = take(tile.queries * tile.dim);
  tile.keys = reinterpret_cast<std::byte*>(take(kTokens * padded(tile.dim, 2)));
  tile.values = take(kTokens * tile.wide_dim);
  tile.scores = take(tile.queries * kTokens);
  tile.out = take(tile.queries * tile.wide_dim);
  tile.best = take(tile.queries);
  tile.total = take(tile.queries);
  tile.product = take(kMaxTileElements);
  tile.token = take(tile.wide_dim);
  return used;
}

void load_queries(const PagedAttentionArgs& args, const PrefillBlock& block, int64_t kv_head,
                  Tile& tile) {
  const int64_t count = args.num_q_heads / args.num_kv_heads * tile.dim;
  const int64_t bytes = dtype_size(args.q.dtype());
  for (int64_t r = 0; r < block.rows.size(); ++r) {
    const std::byte* q = row_data(args.q, block.rows.begin + r) + kv_head * count * bytes;
    if (uses_pairs(args)) {
      std::memcpy(reinterpret_cast<std::byte*>(tile.q) + r * count * bytes, q,
                  static_cast<size_t>(count * bytes));
    } else {
      load_floats(q, args.q.dtype(), count, tile.q + r * count);
    }
  }
  const int64_t queries = block.rows.size() * (count / tile.dim);
  std::fill_n(tile.out, queries * tile.wide_dim, 0.0f);
  std::fill_n(tile.best, queries, -1e30f);  // finite: a wholly masked tile then has weights 0
  std::fill_n(tile.total, queries, 0.0f);
}

/// Packs tokens [first, first + kTokens) of the sequence; those outside `valid` are zero.
void load_tokens(const PagedAttentionArgs& args, int64_t seq, int64_t kv_head, int64_t first,
                 RowRange valid, Tile& tile) {
  const int64_t bytes = dtype_size(args.cache.dtype);
  const bool pairs = uses_pairs(args);
  std::fill_n(tile.token, tile.wide_dim, 0.0f);
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t position = first + t;
    const bool inside = position >= valid.begin && position < valid.end;
    const int64_t offset =
        inside ? cache_offset(args, seq, position) + kv_head * args.cache.head_stride : 0;
    const std::byte* k = static_cast<const std::byte*>(args.cache.k) + offset * bytes;
    const int64_t panel = t / kPanelCols * kPanelCols * tile.dim + t % kPanelCols * (pairs ? 2 : 1);
    if (pairs) {
      auto* out = reinterpret_cast<BFloat16*>(tile.keys) + panel;
      for (int64_t d = 0; d < tile.dim; d += 2, out += 2 * kPanelCols) {
        uint32_t pair = 0;
        if (inside) std::memcpy(&pair, k + d * 2, 4);
        std::memcpy(static_cast<void*>(out), &pair, 4);
      }
    } else {
      if (inside) load_floats(k, args.cache.dtype, tile.dim, tile.token);
      auto* out = reinterpret_cast<float*>(tile.keys) + panel;
      for (int64_t d = 0; d < tile.dim; ++d) out[d * kPanelCols] = inside ? tile.token[d] : 0.0f;
    }
    const std::byte* v = static_cast<const std::byte*>(args.cache.v) + offset * bytes;
    if (inside) load_floats(v, args.cache.dtype, tile.dim, tile.token);
    for (int64_t d = 0; d < tile.wide_dim; d += kPanelCols)
      for (int64_t half = 0; half < kPanelCols; half += kSimd)
        store(tile.values + d * kTokens + t * kPanelCols + half,
              inside ? load(tile.token + d + half) : Floats{});
  }
}

/// scores [rows, 64] = q . keys for the queries from `first`.
void multiply_keys(const PagedAttentionArgs& args, const Tile& tile, int64_t first, int64_t rows) {
  for (int64_t panel = 0; panel < kTokens / kPanelCols; ++panel) {
    const int64_t offset = panel * kPanelCols * tile.dim;
    if (uses_pairs(args)) {
      multiply_tile_pairs(reinterpret_cast<const BFloat16*>(tile.q) + first * tile.dim, tile.dim,
                          rows, reinterpret_cast<const BFloat16*>(tile.keys) + offset, 1, tile.dim,
                          tile.product);
    } else {
      multiply_tile(tile.q + first * tile.dim, tile.dim, rows,
                    reinterpret_cast<const float*>(tile.keys) + offset, 1, tile.dim, tile.product);
    }
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(tile.scores + (first + r) * kTokens + panel * kPanelCols,
                  tile.product + r * kPanelCols, kPanelCols * sizeof(float));
  }
}

/// One query's scores become weights; its earlier sums are rescaled. `inside` counts from the
/// tile's first token.
void update_softmax(const Tile& tile, int64_t query, RowRange inside, float scale) {
  float* scores = tile.scores + query * kTokens;
  Ints lane;
  for (int i = 0; i < kSimd; ++i) lane[i] = i;
  Floats best = splat(tile.best[query]);
  const bool whole = inside.begin <= 0 && inside.end >= kTokens;
  for (int64_t t = 0; t < kTokens; t += kSimd) {
    Floats s = load(scores + t) * scale;
    if (!whole) {
      const Ints position = lane + static_cast<int32_t>(t);
      const Ints masked = (position < static_cast<int32_t>(inside.begin)) |
                          (position >= static_cast<int32_t>(inside.end));
      s = masked ? splat(-INFINITY) : s;
    }
    store(scores + t, s);
    best = max(best, s);
  }
  const float new_best = max(best);
  Floats total{};
  for (int64_t t = 0; t < kTokens; t += kSimd) {
    const Floats weights = exp(load(scores + t) - new_best);
    store(scores + t, weights);
    total += weights;
  }
  if (new_best > tile.best[query]) {
    const float shrink = std::exp(tile.best[query] - new_best);
    tile.total[query] *= shrink;
    float* out = tile.out + query * tile.wide_dim;
    for (int64_t d = 0; d < tile.wide_dim; d += kSimd) store(out + d, load(out + d) * shrink);
    tile.best[query] = new_best;
  }
  tile.total[query] += sum(total);
}

/// out [rows, dim] += weights [rows, 64] . values.
void multiply_values(const Tile& tile, int64_t first, int64_t rows) {
  for (int64_t d = 0; d < tile.wide_dim; d += kPanelCols) {
    multiply_tile(tile.scores + first * kTokens, kTokens, rows, tile.values + d * kTokens, 1,
                  kTokens, tile.product);
    for (int64_t r = 0; r < rows; ++r) {
      float* out = tile.out + (first + r) * tile.wide_dim + d;
      const float* product = tile.product + r * kPanelCols;
      for (int64_t c = 0; c < kPanelCols; c += kSimd)
        store(out + c, load(out + c) + load(product + c));
    }
  }
}

void store_results(const PagedAttentionArgs& args, const PrefillBlock& block, int64_t kv_head,
                   const Tile& tile) {
  const int64_t group = args.num_q_heads / args.num_kv_heads;
  const int64_t bytes = dtype_size(args.out.dtype());
  for (int64_t r = 0; r < block.rows.size(); ++r)
    for (int64_t g = 0; g < group; ++g) {
      const int64_t query = r * group + g;
      float* out = tile.out + query * tile.wide_dim;
      for (int64_t d = 0; d < tile.dim; ++d) out[d] /= tile.total[query];
      store_floats(mutable_row_data(args.out, block.rows.begin + r) +
                       (kv_head * group + g) * tile.dim * bytes,
                   args.out.dtype(), tile.dim, out);
    }
}

}  // namespace

int64_t prefill_block_rows(const PagedAttentionArgs& args) {
  return std::max<int64_t>(1, kQueries / (args.num_q_heads / args.num_kv_heads));
}

int64_t prefill_scratch_bytes(const PagedAttentionArgs& args) {
  Tile tile;
  return place(args, nullptr, tile);
}

void prefill_item(const PagedAttentionArgs& args, const PrefillBlock& block, int64_t kv_head,
                  std::byte* scratch) {
  Tile tile;
  place(args, scratch, tile);
  const int64_t batch_row = args.rows.begin + block.rows.begin;
  const int64_t seq = args.step.row_seq.row<int32_t>(0)[batch_row];
  const int64_t position = args.step.positions.row<int32_t>(0)[batch_row];
  const int64_t group = args.num_q_heads / args.num_kv_heads;
  const int64_t queries = block.rows.size() * group;
  const RowRange valid{attended(args, position).begin, position + block.rows.size()};
  load_queries(args, block, kv_head, tile);
  const int64_t limit = max_tile_rows(false);
  for (int64_t first = valid.begin / kTokens * kTokens; first < valid.end; first += kTokens) {
    load_tokens(args, seq, kv_head, first, valid, tile);
    for (int64_t query = 0; query < queries; query += limit) {
      const int64_t rows = std::min(limit, queries - query);
      multiply_keys(args, tile, query, rows);
      for (int64_t q = query; q < query + rows; ++q) {
        const RowRange inside = attended(args, position + q / group);
        update_softmax(tile, q, {inside.begin - first, inside.end - first}, args.scale);
      }
      multiply_values(tile, query, rows);
    }
  }
  store_results(args, block, kv_head, tile);
}

}  // namespace nanoflow::cpu::fast
