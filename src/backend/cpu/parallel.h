// parallel_for: the only place where CPU kernels meet OpenMP.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nanoflow::cpu {

/// Calls body(begin, end) for disjoint pieces of [0, count) on up to `threads` threads, one
/// contiguous piece each, and returns when all are done. Without OpenMP: one call on this thread.
/// `body` must not throw.
template <typename Body>
void parallel_chunks(int64_t count, int threads, const Body& body) {
  const int64_t pieces = std::min<int64_t>(count, std::max(1, threads));
  if (pieces <= 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast <int>(pieces)) schedule(static, 1)
#endif
  for (int64_t p = 0; p < pieces; ++p) body(count * p / pieces, count * (p + 1) / pieces);
}

/// Calls body(i) for i in [0, count), handed out one at a time: for work of unequal size.
template <typename Body>
void parallel_items(int64_t count, int threads, const Body& body) {
  if (count <= 1 || threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
#endif
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace nanoflow::cpu
