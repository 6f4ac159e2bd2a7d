// What the hardware can do at best, measured in this process: figures mean nothing without it.
#pragma once

#include "app/device_choice.h"
#include "tensor/dtype.h"

namespace nanoflow {

struct Ceilings {
  /// FLOP/s of a square product in the compute dtype, sustained: 1,024 on a CPU, 8,192 on a GPU.
  double gemm_flops = 0;
  /// Memory that is read and nothing else: by all cores, or all SMs.
  double read_bytes_per_s = 0;
};

/// Measures both for a second or two each, on random data; `threads` is the CPU's (0: all cores).
/// Throws OutOfMemory, CudaError.
Ceilings measure_ceilings(const DeviceChoice& device, int threads, DType dtype);

}  // namespace nanoflow
