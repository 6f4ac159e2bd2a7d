// Which rows and cache positions an attention op covers; shared by reference and fast kernels.
#pragma once

#include "backend/cpu/kernels.h"

namespace nanoflow::cpu {

/// Rows of the op's own views (0 is the batch's row args.rows.begin) that its phase computes.
RowRange attention_rows(const PagedAttentionArgs& args, const Run& ctx);

/// Cache positions [begin, end) that the token at `position` attends to.
RowRange attended(const PagedAttentionArgs& args, int64_t position);

/// Element offset in the cache of (sequence, position), head 0. NANO_CHECKs the page.
int64_t cache_offset(const PagedAttentionArgs& args, int64_t seq, int64_t position);

}  // namespace nanoflow::cpu
