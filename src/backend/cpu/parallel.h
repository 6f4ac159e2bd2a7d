// Parallel loops of kernels: a typed front of Pool.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/kernels.h"
#include "backend/cpu/pool.h"

namespace nanoflow::cpu {

/// Calls body(begin, end, slot) for disjoint pieces of [0, count) of at least `grain` iterations
/// on up to ctx.threads threads, and returns when all are done. slot < max(1, ctx.threads) numbers
/// the thread, for scratch. `body` must not throw.
template <typename Body>
void parallel_slots(const Run& ctx, int64_t count, int64_t grain, const Body& body) {
  if (ctx.pool == nullptr || ctx.threads <= 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
  // Eight pieces per thread: a thread that is late or slow leaves its share to the others.
  constexpr int64_t kPiecesPerThread = 8;
  const int64_t pieces = ctx.threads * kPiecesPerThread;
  const int64_t piece = std::max<int64_t>({1, grain, (count + pieces - 1) / pieces});
  ctx.pool->run(
      count, piece, ctx.threads,
      [](const void* context, int64_t begin, int64_t end, int slot) {
        (*static_cast<const Body*>(context))(begin, end, slot);
      },
      &body);
}

/// The same with body(begin, end).
template <typename Body>
void parallel_chunks(const Run& ctx, int64_t count, int64_t grain, const Body& body) {
  parallel_slots(ctx, count, grain, [&](int64_t begin, int64_t end, int) { body(begin, end); });
}

}  // namespace nanoflow::cpu
