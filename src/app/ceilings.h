// What the hardware can do at best, measured in this process: figures mean nothing without it.
#pragma once

#include "tensor/dtype.h"

namespace nanoflow {

struct Ceilings {
  double gemm_flops =
      0;  ///< FLOP/s of a 1024 x 1024 x 1024 product in the compute dtype, sustained
  double read_bytes_per_s = 0;  ///< memory read rate of all cores
};

/// Measures both for about a second each, on random data, with `threads` threads (0: all cores).
Ceilings measure_ceilings(int threads, DType dtype);

}  // namespace nanoflow
