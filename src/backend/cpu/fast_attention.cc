// Fast paged attention: cuts the op's rows into items (decode row or prefill block, KV head) and
// shares them out.
#include "backend/cpu/fast_attention.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/parallel.h"

namespace nanoflow::cpu::fast {
namespace {

/// Cuts rows into runs of one sequence at consecutive positions, of at most `limit` rows.
std::vector<PrefillBlock> prefill_blocks(const PagedAttentionArgs& args, RowRange rows,
                                         int64_t limit) {
  const int32_t* positions = args.step.positions.row<int32_t>(0) + args.rows.begin;
  const int32_t* row_seq = args.step.row_seq.row<int32_t>(0) + args.rows.begin;
  std::vector<PrefillBlock> blocks;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const bool continues = !blocks.empty() && blocks.back().rows.size() < limit &&
                           row_seq[t] == row_seq[t - 1] && positions[t] == positions[t - 1] + 1;
    if (continues) {
      ++blocks.back().rows.end;
    } else {
      blocks.push_back({RowRange{t, t + 1}});
    }
  }
  return blocks;
}

/// The rows of [rows.begin, rows.end) that are decodes of this step.
RowRange decode_rows(const PagedAttentionArgs& args, RowRange rows) {
  if (args.step.header == nullptr || !has_decode_kernel(args)) return {rows.begin, rows.begin};
  const int64_t decodes = args.step.header->num_decode_rows - args.rows.begin;
  return {rows.begin, std::clamp<int64_t>(decodes, rows.begin, rows.end)};
}

}  // namespace

void run(const PagedAttentionArgs& args, const Run& ctx) {
  const RowRange rows = attention_rows(args, ctx);
  const RowRange decodes = decode_rows(args, rows);
  const int64_t heads = args.num_kv_heads;
  parallel_chunks(ctx, decodes.size() * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) decode_item(args, decodes.begin + i / heads, i % heads);
  });
  const std::vector<PrefillBlock> blocks =
      prefill_blocks(args, {decodes.end, rows.end}, prefill_block_rows(args));
  if (blocks.empty()) return;
  const int64_t slot_bytes = prefill_scratch_bytes(args);
  ctx.scratch->reserve(slot_bytes * std::max(1, ctx.threads));
  std::byte* scratch = ctx.scratch->take<std::byte>(slot_bytes * std::max(1, ctx.threads));
  const auto count = static_cast<int64_t>(blocks.size());
  parallel_slots(ctx, count * heads, 1, [&](int64_t begin, int64_t end, int slot) {
    // From the last block to the first: late blocks attend to more, so the short ones fill the end.
    for (int64_t i = begin; i < end; ++i)
      prefill_item(args, blocks[static_cast<size_t>(count - 1 - i / heads)], i % heads,
                   scratch + slot * slot_bytes);
  });
}

}  // namespace nanoflow::cpu::fast
