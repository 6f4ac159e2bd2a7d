// How a program gets a CUDA backend without seeing CUDA's headers.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "ops/backend.h"

namespace nanoflow {

struct CudaBackendOptions {
  int ordinal = 0;               ///< of the GPU
  int lanes = 4;                 ///< see Backend::max_lanes
  Communicator* comm = nullptr;  ///< null, or of one rank; more are refused
};

/// A CudaBackend (backend.h). Throws CudaError when the GPU cannot be used, ConfigError for several
/// ranks.
std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options);

}  // namespace nanoflow
