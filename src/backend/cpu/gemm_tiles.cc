#include "backend/cpu/gemm_tiles.h"

#include <cstring>

#include "backend/cpu/gemm_panels.h"
#include "backend/cpu/simd.h"
#include "base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
// Compiled for AVX512_BF16 whatever the build's -march; has_bf16_dot() asks the CPU.
#define NANO_BF16_DOT __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace nanoflow::cpu {
namespace {

constexpr int64_t kVectors = kPanelCols / kSimd;  // per panel and k

template <int kRows, int kPanels>
void tile_f32(const float* a, int64_t a_stride, const float* panel, int64_t k, float* tile) {
  constexpr int kCols = kPanels * static_cast<int>(kVectors);
  Floats acc[kRows][kCols] = {};
  const int64_t panel_stride = k * kPanelCols;
  for (int64_t i = 0; i < k; ++i) {
    Floats b[kCols];
    NANO_UNROLL
    for (int c = 0; c < kCols; ++c)
      b[c] = load(panel + c / kVectors * panel_stride + i * kPanelCols + c % kVectors * kSimd);
    NANO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Floats x = splat(a[r * a_stride + i]);
      NANO_UNROLL
      for (int c = 0; c < kCols; ++c) acc[r][c] += x * b[c];
    }
  }
  NANO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    NANO_UNROLL
    for (int c = 0; c < kCols; ++c) store(tile + (r * kCols + c) * kSimd, acc[r][c]);
  }
}

#if defined(__x86_64__)
template <int kRows, int kPanels>
NANO_BF16_DOT void tile_pairs(const BFloat16* a, int64_t a_stride, const BFloat16* panel, int64_t k,
                              float* tile) {
  constexpr int kCols = kPanels * static_cast<int>(kVectors);
  __m512 acc[kRows][kCols];
  NANO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    NANO_UNROLL
    for (int c = 0; c < kCols; ++c) acc[r][c] = _mm512_setzero_ps();
  }
  const int64_t panel_stride = k * kPanelCols;
  for (int64_t i = 0; i < k; i += 2) {
    __m512bh b[kCols];
    NANO_UNROLL
    for (int c = 0; c < kCols; ++c)
      b[c] = (__m512bh)_mm512_loadu_si512(panel + c / kVectors * panel_stride + i * kPanelCols +
                                          c % kVectors * 2 * kSimd);
    NANO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * a_stride + i, sizeof(pair));
      const auto x = (__m512bh)_mm512_set1_epi32(pair);
      NANO_UNROLL
      for (int c = 0; c < kCols; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], x, b[c]);
    }
  }
  NANO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    NANO_UNROLL
    for (int c = 0; c < kCols; ++c) _mm512_storeu_ps(tile + (r * kCols + c) * kSimd, acc[r][c]);
  }
}
#endif

}  // namespace

bool has_bf16_dot() {
#if defined(__x86_64__)
  static const bool present = __builtin_cpu_supports("avx512f") &&
                              __builtin_cpu_supports("avx512vl") &&
                              __builtin_cpu_supports("avx512bf16");
  return present;
#else
  return false;
#endif
}

int64_t max_tile_rows([[maybe_unused]] bool pairs) {
#if defined(__AVX512F__)
  return 14;
#else
  return pairs ? 14 : 3;
#endif
}

// NOLINTBEGIN(bugprone-macro-parentheses): a template's name and arguments
#define NANO_TILE(kernel, rows_, panels_) \
  if (rows == rows_ && panels == panels_) return kernel<rows_, panels_>(a, a_stride, panel, k, tile)
// NOLINTEND(bugprone-macro-parentheses)
#define NANO_TILES(kernel)  \
  NANO_TILE(kernel, 1, 4);  \
  NANO_TILE(kernel, 2, 4);  \
  NANO_TILE(kernel, 3, 4);  \
  NANO_TILE(kernel, 1, 2);  \
  NANO_TILE(kernel, 2, 2);  \
  NANO_TILE(kernel, 3, 2);  \
  NANO_TILE(kernel, 4, 2);  \
  NANO_TILE(kernel, 5, 2);  \
  NANO_TILE(kernel, 6, 2);  \
  NANO_TILE(kernel, 7, 2);  \
  NANO_TILE(kernel, 1, 1);  \
  NANO_TILE(kernel, 2, 1);  \
  NANO_TILE(kernel, 3, 1);  \
  NANO_TILE(kernel, 4, 1);  \
  NANO_TILE(kernel, 5, 1);  \
  NANO_TILE(kernel, 6, 1);  \
  NANO_TILE(kernel, 7, 1);  \
  NANO_TILE(kernel, 8, 1);  \
  NANO_TILE(kernel, 9, 1);  \
  NANO_TILE(kernel, 10, 1); \
  NANO_TILE(kernel, 11, 1); \
  NANO_TILE(kernel, 12, 1); \
  NANO_TILE(kernel, 13, 1); \
  NANO_TILE(kernel, 14, 1)

void multiply_tile(const float* a, int64_t a_stride, int64_t rows, const float* panel,
                   int64_t panels, int64_t k, float* tile) {
  NANO_TILES(tile_f32);
  NANO_CHECK(false, "tile of {} rows, {} panels", rows, panels);
}

void multiply_tile_pairs(const BFloat16* a, int64_t a_stride, int64_t rows, const BFloat16* panel,
                         int64_t panels, int64_t k, float* tile) {
#if defined(__x86_64__)
  NANO_TILES(tile_pairs);
#endif
  NANO_CHECK(false, "tile of {} rows, {} panels", rows, panels);
}

}  // namespace nanoflow::cpu
