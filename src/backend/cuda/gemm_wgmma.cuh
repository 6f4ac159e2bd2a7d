// Warpgroup products (wgmma) of 64 x N x 16 with both operands in shared memory and k contiguous,
// for the N that the grouped products use. Compiled for sm_90a only.
#pragma once

#include "backend/cuda/attention_wgmma.cuh"

namespace nanoflow::cuda::wgmma {

// The registers of an accumulator by eights, as text and as operands.
#define NANO_TEXT_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NANO_TEXT_16 NANO_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NANO_TEXT_32                                        \
  NANO_TEXT_16                                              \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26" \
  ", %27, %28, %29, %30, %31"
#define NANO_TEXT_64                                        \
  NANO_TEXT_32                                              \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42" \
  ", %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53" \
  ", %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NANO_TEXT_96                                        \
  NANO_TEXT_64                                              \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74" \
  ", %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85" \
  ", %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NANO_TEXT_128                                        \
  NANO_TEXT_96                                               \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105" \
  ", %106, %107, %108, %109, %110, %111, %112, %113, %114"   \
  ", %115, %116, %117, %118, %119, %120, %121, %122, %123"   \
  ", %124, %125, %126, %127"
#define NANO_REGS_8(i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define NANO_REGS_16(i) NANO_REGS_8(i), NANO_REGS_8(i + 8)
#define NANO_REGS_32(i) NANO_REGS_16(i), NANO_REGS_16(i + 16)
#define NANO_REGS_64(i) NANO_REGS_32(i), NANO_REGS_32(i + 32)
#define NANO_REGS_96(i) NANO_REGS_64(i), NANO_REGS_32(i + 64)
#define NANO_REGS_128(i) NANO_REGS_64(i), NANO_REGS_64(i + 64)
/// `a`, `b`, `p`: the numbers of the operands behind the `count` registers.
#define NANO_WGMMA(n, type, count, a, b, p)                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p                           \
               ", 0;\n"                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
               " {" NANO_TEXT_##count "}, %" #a ", %" #b ", p, 1, 1, 0, 0; }"  \
               : NANO_REGS_##count(0)                                          \
               : "l"(weight), "l"(tokens), "r"(accumulate))
#define NANO_WGMMA_OF(n, count, a, b, p)                                                      \
  template <typename T>                                                                       \
  __device__ __forceinline__ void product(float(&d)[count], uint64_t weight, uint64_t tokens, \
                                          int accumulate) {                                   \
    if constexpr (std::is_same_v<T, __half>)                                                  \
      NANO_WGMMA(n, "f16", count, a, b, p);                                                   \
    else                                                                                      \
      NANO_WGMMA(n, "bf16", count, a, b, p);                                                  \
  }

/// d[64 outputs, N = 2 * size of d] = weight @ tokens^T (+ d).
NANO_WGMMA_OF(16, 8, 8, 9, 10)
NANO_WGMMA_OF(32, 16, 16, 17, 18)
NANO_WGMMA_OF(64, 32, 32, 33, 34)
NANO_WGMMA_OF(128, 64, 64, 65, 66)
NANO_WGMMA_OF(192, 96, 96, 97, 98)
NANO_WGMMA_OF(256, 128, 128, 129, 130)

#undef NANO_WGMMA_OF
#undef NANO_WGMMA

}  // namespace nanoflow::cuda::wgmma
