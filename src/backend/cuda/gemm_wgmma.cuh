// Warpgroup products (wgmma) of 64 x N x 16 with both operands in shared memory and k contiguous,
// for N = 16, 32, ... 256. Compiled for sm_90a only.
#pragma once

#include "backend/cuda/attention_wgmma.cuh"

namespace nanoflow::cuda::wgmma {

// The registers of an accumulator by eights, as text and as operands.
#define NANO_TEXT_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NANO_TEXT_16 NANO_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NANO_TEXT_24 NANO_TEXT_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define NANO_TEXT_32 NANO_TEXT_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define NANO_TEXT_40 NANO_TEXT_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NANO_TEXT_48 NANO_TEXT_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NANO_TEXT_56 NANO_TEXT_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define NANO_TEXT_64 NANO_TEXT_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define NANO_TEXT_72 NANO_TEXT_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define NANO_TEXT_80 NANO_TEXT_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define NANO_TEXT_88 NANO_TEXT_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define NANO_TEXT_96 NANO_TEXT_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define NANO_TEXT_104 NANO_TEXT_96 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define NANO_TEXT_112 NANO_TEXT_104 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define NANO_TEXT_120 NANO_TEXT_112 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define NANO_TEXT_128 NANO_TEXT_120 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define NANO_REGS_8(i)                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define NANO_REGS_OF_8 NANO_REGS_8(0)
#define NANO_REGS_OF_16 NANO_REGS_8(0), NANO_REGS_8(8)
#define NANO_REGS_OF_24 NANO_REGS_OF_16, NANO_REGS_8(16)
#define NANO_REGS_OF_32 NANO_REGS_OF_24, NANO_REGS_8(24)
#define NANO_REGS_OF_40 NANO_REGS_OF_32, NANO_REGS_8(32)
#define NANO_REGS_OF_48 NANO_REGS_OF_40, NANO_REGS_8(40)
#define NANO_REGS_OF_56 NANO_REGS_OF_48, NANO_REGS_8(48)
#define NANO_REGS_OF_64 NANO_REGS_OF_56, NANO_REGS_8(56)
#define NANO_REGS_OF_72 NANO_REGS_OF_64, NANO_REGS_8(64)
#define NANO_REGS_OF_80 NANO_REGS_OF_72, NANO_REGS_8(72)
#define NANO_REGS_OF_88 NANO_REGS_OF_80, NANO_REGS_8(80)
#define NANO_REGS_OF_96 NANO_REGS_OF_88, NANO_REGS_8(88)
#define NANO_REGS_OF_104 NANO_REGS_OF_96, NANO_REGS_8(96)
#define NANO_REGS_OF_112 NANO_REGS_OF_104, NANO_REGS_8(104)
#define NANO_REGS_OF_120 NANO_REGS_OF_112, NANO_REGS_8(112)
#define NANO_REGS_OF_128 NANO_REGS_OF_120, NANO_REGS_8(120)
/// `a`, `b`, `p`: the numbers of the operands behind the `count` registers.
#define NANO_WGMMA(n, type, count, a, b, p)                                    \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #p                           \
               ", 0;\n"                                                        \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
               " {" NANO_TEXT_##count "}, %" #a ", %" #b ", p, 1, 1, 0, 0; }"  \
               : NANO_REGS_OF_##count                                          \
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
NANO_WGMMA_OF(48, 24, 24, 25, 26)
NANO_WGMMA_OF(64, 32, 32, 33, 34)
NANO_WGMMA_OF(80, 40, 40, 41, 42)
NANO_WGMMA_OF(96, 48, 48, 49, 50)
NANO_WGMMA_OF(112, 56, 56, 57, 58)
NANO_WGMMA_OF(128, 64, 64, 65, 66)
NANO_WGMMA_OF(144, 72, 72, 73, 74)
NANO_WGMMA_OF(160, 80, 80, 81, 82)
NANO_WGMMA_OF(176, 88, 88, 89, 90)
NANO_WGMMA_OF(192, 96, 96, 97, 98)
NANO_WGMMA_OF(208, 104, 104, 105, 106)
NANO_WGMMA_OF(224, 112, 112, 113, 114)
NANO_WGMMA_OF(240, 120, 120, 121, 122)
NANO_WGMMA_OF(256, 128, 128, 129, 130)

#undef NANO_WGMMA_OF
#undef NANO_WGMMA

}  // namespace nanoflow::cuda::wgmma
