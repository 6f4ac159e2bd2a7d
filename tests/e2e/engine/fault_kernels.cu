#include "fault_kernels.h"

#include <cuda_runtime.h>

namespace nanoflow {
namespace {

__device__ unsigned long long now_ns() {
  unsigned long long ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__global__ void trap_kernel() {
  asm volatile("trap;");
}

// Ends by itself, so that a GPU that others use is free again.
__global__ void spin_kernel(unsigned long long duration_ns) {
  const unsigned long long begin = now_ns();
  while (now_ns() - begin < duration_ns) {
  }
}

}  // namespace

void launch_trap() {
  trap_kernel<<<1, 1>>>();
}

void launch_spin(double seconds) {
  int device = 0, sms = 0;
  (void)cudaGetDevice(&device);
  (void)cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  // Two blocks of 1,024 threads are all that an SM holds.
  spin_kernel<<<2 * sms, 1024>>>(static_cast<unsigned long long>(seconds * 1e9));
}

}  // namespace nanoflow
