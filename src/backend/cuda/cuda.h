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

/// For kernel launchers: throws CudaError naming `kernel` when the launch before it was refused.
void check_launch(const char* kernel);

/// A non-blocking stream of the current device. Move-only; empty after a move.
class Stream {
 public:
  Stream() { cuda_check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "a stream"); }
  ~Stream() {
    if (handle_ != nullptr) (void)cudaStreamDestroy(handle_);
  }
  Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  [[nodiscard]] cudaStream_t get() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

/// A marker without timing unless asked for. Move-only; empty after a move.
class Event {
 public:
  enum class Timing : uint8_t { kOff, kOn };
  explicit Event(Timing timing = Timing::kOff) {
    const unsigned flags = timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming;
    cuda_check(cudaEventCreateWithFlags(&handle_, flags), "an event");
  }
  ~Event() {
    if (handle_ != nullptr) (void)cudaEventDestroy(handle_);
  }
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  [[nodiscard]] cudaEvent_t get() const { return handle_; }

 private:
  cudaEvent_t handle_ = nullptr;
};

/// A captured graph, ready to be launched. Move-only.
class Graph {
 public:
  Graph() = default;
  /// Takes over `graph`, also when it throws.
  explicit Graph(cudaGraph_t graph) {
    const cudaError_t status = cudaGraphInstantiate(&handle_, graph, 0);
    (void)cudaGraphDestroy(graph);
    cuda_check(status, "making a graph ready");
  }
  ~Graph() {
    if (handle_ != nullptr) (void)cudaGraphExecDestroy(handle_);
  }
  Graph(Graph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  [[nodiscard]] cudaGraphExec_t get() const { return handle_; }

 private:
  cudaGraphExec_t handle_ = nullptr;
};

/// Device memory of the current device. Throws OutOfMemory. Move-only.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t bytes) : size_(bytes) {
    cuda_check(cudaMalloc(&data_, static_cast<size_t>(bytes > 0 ? bytes : 1)), "device memory");
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  [[nodiscard]] void* data() const { return data_; }
  /// Gives the memory away; the caller frees it.
  void* release() { return std::exchange(data_, nullptr); }
  [[nodiscard]] int64_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

/// Page-locked host memory. Throws OutOfMemory. Move-only.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes) : size_(bytes) {
    cuda_check(cudaMallocHost(&data_, static_cast<size_t>(bytes > 0 ? bytes : 1)),
               "page-locked host memory");
  }
  ~PinnedBuffer() {
    if (data_ != nullptr) (void)cudaFreeHost(data_);
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  [[nodiscard]] void* data() const { return data_; }
  /// Gives the memory away; the caller frees it.
  void* release() { return std::exchange(data_, nullptr); }
  [[nodiscard]] int64_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace cuda
}  // namespace nanoflow
