// Owners of CUDA's handles and the check of its calls. Every CUDA call of this backend goes through
// cuda_check(); destructors never throw, since what they could report was reported before.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"

namespace nanoflow {

/// The driver, the GPU or a kernel failed. The message names the call and CUDA's reason; after an
/// error of a kernel the process must end, since its context is lost.
class CudaError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

namespace cuda {

/// Throws CudaError("CUDA: <what> failed: <reason>"); running out of device memory throws
/// OutOfMemory. `what` is a few words for a person: "copying weights".
void cuda_check(cudaError_t status, const char* what);

/// cuda_check() for calls that wait: what they report is an earlier kernel's, so the message says
/// how to learn which.
void check_work(cudaError_t status, const char* what);

/// For kernel launchers: throws CudaError naming `kernel` when the launch before it was refused.
void check_launch(const char* kernel);

/// Owns a handle of CUDA's; move-only, empty after a move.
template <typename Handle, cudaError_t (*kDestroy)(Handle)>
class Owner {
 public:
  Owner() = default;
  ~Owner() {
    if (handle_ != nullptr) (void)kDestroy(handle_);
  }
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    Owner old(std::move(other));
    std::swap(handle_, old.handle_);
    return *this;
  }
  [[nodiscard]] Handle get() const { return handle_; }
  /// Gives the handle away; the caller destroys it.
  Handle release() { return std::exchange(handle_, nullptr); }

 protected:
  Handle* out() { return &handle_; }

 private:
  Handle handle_ = nullptr;
};

/// A non-blocking stream of the current device.
class Stream : public Owner<cudaStream_t, cudaStreamDestroy> {
 public:
  Stream() { cuda_check(cudaStreamCreateWithFlags(out(), cudaStreamNonBlocking), "a stream"); }
};

/// A marker without timing unless asked for.
class Event : public Owner<cudaEvent_t, cudaEventDestroy> {
 public:
  enum class Timing : uint8_t { kOff, kOn };
  explicit Event(Timing timing = Timing::kOff) {
    const unsigned flags = timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming;
    cuda_check(cudaEventCreateWithFlags(out(), flags), "an event");
  }
};

/// A captured graph, ready to be launched.
class Graph : public Owner<cudaGraphExec_t, cudaGraphExecDestroy> {
 public:
  Graph() = default;
  /// Takes over `graph`, also when it throws.
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t status = cudaGraphInstantiate(out(), graph, 0);
    (void)cudaGraphDestroy(graph);
    cuda_check(status, "making a graph ready");
  }
};

/// Memory that a function of CUDA's frees.
template <cudaError_t (*kFree)(void*)>
class Memory : public Owner<void*, kFree> {
 public:
  Memory() = default;
  [[nodiscard]] void* data() const { return this->get(); }
  [[nodiscard]] int64_t size() const { return data() == nullptr ? 0 : size_; }

 protected:
  explicit Memory(int64_t bytes) : size_(bytes) {}
  /// What to ask for: CUDA gives no memory of no bytes.
  [[nodiscard]] size_t asked() const { return static_cast<size_t>(size_ > 0 ? size_ : 1); }

 private:
  int64_t size_ = 0;
};

/// Device memory of the current device. Throws OutOfMemory.
class DeviceBuffer : public Memory<cudaFree> {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t bytes) : Memory(bytes) {
    cuda_check(cudaMalloc(out(), asked()), "device memory");
  }
};

/// Page-locked host memory. Throws OutOfMemory.
class PinnedBuffer : public Memory<cudaFreeHost> {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes) : Memory(bytes) {
    cuda_check(cudaMallocHost(out(), asked()), "page-locked host memory");
  }
};

}  // namespace cuda
}  // namespace nanoflow
