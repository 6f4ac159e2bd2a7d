// The two kernels of fast attention: one decode row at a time, and blocks of prefill rows.
#pragma once

#include "backend/cpu/attention.h"

namespace nanoflow::cpu::fast {

/// Whether decode_item() computes this op; otherwise its rows go through prefill blocks.
bool has_decode_kernel(const PagedAttentionArgs& args);

/// All query heads of KV head `kv_head` of row `row` of the op's views. Needs no scratch.
void decode_item(const PagedAttentionArgs& args, int64_t row, int64_t kv_head);

/// Rows [rows.begin, rows.end) of one sequence, at consecutive positions.
struct PrefillBlock {
  RowRange rows;
};

/// Most rows of a block for this op.
int64_t prefill_block_rows(const PagedAttentionArgs& args);
/// Bytes of scratch of one thread.
int64_t prefill_scratch_bytes(const PagedAttentionArgs& args);
/// All query heads of `kv_head` of a block; every page is read once. `scratch` is aligned to 64.
void prefill_item(const PagedAttentionArgs& args, const PrefillBlock& block, int64_t kv_head,
                  std::byte* scratch);

}  // namespace nanoflow::cpu::fast
