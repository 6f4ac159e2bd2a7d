// Warpgroup products of Hopper (wgmma): four warps, 64 rows, B and possibly A in shared memory.
// Compiled for sm_90a only.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace nanoflow::cuda::wgmma {

/// Descriptor of a matrix in shared memory whose rows of 128 bytes are swizzled by eights (PTX ISA,
/// "Matrix descriptor"): `leading` and `stride` are bytes between neighbouring 64-element blocks
/// and between groups of eight rows.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading,
                                               uint32_t stride) {
  return static_cast<uint64_t>(address >> 4 & 0x3fff) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}

/// Before the first product that reads registers or shared memory written by this thread.
__device__ __forceinline__ void fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Until at most kPending committed groups run.
template <int kPending>
__device__ __forceinline__ void wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving accesses of accumulators across a fence or wait.
template <typename R, int kCount>
__device__ __forceinline__ void pin(R (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<R, float>)
      asm volatile("" : "+f"(r[i])::"memory");
    else
      asm volatile("" : "+r"(r[i])::"memory");
  }
}

// The parts of the instruction's text that its shape fixes: registers by number, and as operands.
#define NANO_WGMMA_32                        \
  "%0, %1, %2, %3, %4, %5, %6, %7, "         \
  "%8, %9, %10, %11, %12, %13, %14, %15, "   \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define NANO_WGMMA_64                        \
  "%0, %1, %2, %3, %4, %5, %6, %7, "         \
  "%8, %9, %10, %11, %12, %13, %14, %15, "   \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define NANO_WGMMA_D32                                                                            \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define NANO_WGMMA_D64                                                                           \
  NANO_WGMMA_D32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]),  \
      "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), \
      "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), \
      "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), \
      "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
// TYPE is "f16" or "bf16": the asm text must be a literal, so a template cannot supply it.
#define NANO_WGMMA_SS_128(TYPE)                                                       \
  asm volatile(                                                                       \
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" NANO_WGMMA_64 \
      "}, %64, %65, p, 1, 1, 0, 0; }"                                                 \
      : NANO_WGMMA_D64                                                                \
      : "l"(a), "l"(b), "r"(accumulate))
#define NANO_WGMMA_RS_128(TYPE)                                                       \
  asm volatile(                                                                       \
      "{ .reg .pred p; setp.ne.b32 p, %69, 0;\n"                                      \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" NANO_WGMMA_64 \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"                                   \
      : NANO_WGMMA_D64                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
#define NANO_WGMMA_RS_64(TYPE)                                                       \
  asm volatile(                                                                      \
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"                                     \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " {" NANO_WGMMA_32 \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"                                  \
      : NANO_WGMMA_D32                                                               \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

/// d = a @ b^T (+ d), 64x128x16; both with k contiguous.
template <typename T>
__device__ __forceinline__ void product_ss(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<T, __half>)
    NANO_WGMMA_SS_128("f16");
  else
    NANO_WGMMA_SS_128("bf16");
}

/// d = a @ b (+ d), 64x128x16; a in registers, b with its 128 columns contiguous.
template <typename T>
__device__ __forceinline__ void product_rs(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                           int accumulate) {
  if constexpr (std::is_same_v<T, __half>)
    NANO_WGMMA_RS_128("f16");
  else
    NANO_WGMMA_RS_128("bf16");
}

/// d = a @ b (+ d), 64x64x16; likewise.
template <typename T>
__device__ __forceinline__ void product_rs(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                           int accumulate) {
  if constexpr (std::is_same_v<T, __half>)
    NANO_WGMMA_RS_64("f16");
  else
    NANO_WGMMA_RS_64("bf16");
}

#undef NANO_WGMMA_RS_64
#undef NANO_WGMMA_RS_128
#undef NANO_WGMMA_SS_128
#undef NANO_WGMMA_D64
#undef NANO_WGMMA_D32
#undef NANO_WGMMA_64
#undef NANO_WGMMA_32

}  // namespace nanoflow::cuda::wgmma
