// How a program gets a CUDA backend without seeing CUDA's headers.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "ops/backend.h"

namespace nanoflow {

struct CudaBackendOptions {
  int ordinal = 0;               ///< of the GPU
  int lanes = 4;                 ///< see Backend::max_lanes
  Communicator* comm = nullptr;  ///< null, or of one rank; more are refused
  /// File of algorithms that were measured on this machine (cuda_gemm_tune writes one); goes before
  /// the tables that the program carries. Empty: none.
  std::string gemm_table = {};
};

/// A CudaBackend (backend.h). Throws CudaError when the GPU cannot be used, ConfigError for several
/// ranks, IoError and FormatError for the table.
std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options);

/// Bytes per second at which a kernel that does nothing else reads the memory of GPU `ordinal`,
/// over `seconds` after a warm-up. Takes 1 GiB. Throws CudaError, OutOfMemory.
double measure_cuda_read_rate(int ordinal, double seconds);

}  // namespace nanoflow
