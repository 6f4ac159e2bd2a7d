// Backend: how one op is computed. Two implementations (CPU, CUDA); it knows nothing of plans,
// sequences or models. One per rank, used by that rank's thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "ops/op_args.h"
#include "tensor/buffer.h"

namespace nanoflow {

/// An in-order queue of work. Work on different lanes may run at the same time.
using LaneId = int;
/// A marker in a lane's order that other lanes can wait for; reusable.
using EventId = int;
/// A place in a lane's order at which the device's clock is read; reusable.
using StampId = int;
/// Captured launches that can be replayed as one.
using GraphId = int;

/// Share of the device's SMs (CPU: cores). Soft: advice. Hard: a partition that may not be
/// over-committed.
struct SmBudget {
  enum class Kind : uint8_t { kSoft, kHard };
  int sms = 0;  ///< 0: the whole device
  Kind kind = Kind::kSoft;
  bool operator==(const SmBudget&) const = default;
};

struct LaunchContext {
  LaneId lane = 0;
  SmBudget sm;
  TensorView workspace;  ///< uint8, at least workspace_bytes(); placed by the plan
  RowRange rows;         ///< of the dense batch; rows >= header->num_rows are padding
  /// Device memory; null: every row is live. The sample graph's ops get a header of their own whose
  /// num_rows counts samples.
  const StepHeader* header = nullptr;
};

struct DeviceInfo {
  std::string name;  ///< "AMD EPYC 9654 (2 cores)", "NVIDIA H200"
  Device device;
  int num_sms = 0;                       ///< SMs; cores on a CPU
  int64_t memory_bytes = 0;              ///< total
  int64_t free_bytes = 0;                ///< when asked
  DType preferred_dtype = DType::kBF16;  ///< fastest activation dtype
};

/// What a weight will be used for; decides its layout.
enum class WeightUse : uint8_t {
  kMatmul,     ///< [n, k] for Gemm
  kExperts,    ///< [experts * n, k] for GroupedGemm
  kEmbedding,  ///< [V, H] for Embed
  kVector,     ///< norms, biases
  kTable,      ///< float32 tables (rotary cosines and sines)
};

/// A host matrix [rows, cols] in the dtype it shall have on the device.
struct WeightShape {
  int64_t rows = 0;  ///< over all experts
  int64_t cols = 0;
  DType dtype = DType::kBF16;
  WeightUse use = WeightUse::kMatmul;
  int64_t experts = 1;  ///< divides rows
};

/// Fills `out` [out.rows(), cols], host memory whose rows may be strided, with a weight's rows from
/// `row_begin` on.
using WeightReader = std::function<void(int64_t row_begin, const TensorView& out)>;

/// A prepared weight and the memory behind it.
struct OwnedWeight {
  Buffer storage;
  PackedWeight packed;
  std::shared_ptr<void>
      handle;  ///< keeps packed.handle alive; shared with nobody but this weight's moves
};

/// The numbers of a model that its KV cache's layout depends on (of one rank).
struct KvShape {
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  DType dtype = DType::kBF16;
};

/// The backend's choice of KV page format. Strides are in elements, as in KvCacheView.
struct KvLayout {
  int64_t page_size = 0;
  int64_t page_stride = 0;
  int64_t slot_stride = 0;
  int64_t head_stride = 0;
  int64_t bytes_per_page = 0;  ///< of K and V together, for one layer
};

class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual DeviceInfo device() const = 0;
  /// Lanes that can make progress at the same time; LaneId is below this.
  [[nodiscard]] virtual int max_lanes() const = 0;

  /// Device memory, uninitialised. Throws OutOfMemory.
  virtual Buffer allocate(int64_t bytes) = 0;
  /// Host memory that copy() can read and write asynchronously (page-locked on CUDA). Throws
  /// OutOfMemory.
  virtual Buffer allocate_pinned(int64_t bytes) = 0;

  /// Whether launch() can compute this. Asked when a plan is built, never per step.
  [[nodiscard]] virtual bool supports(const OpArgs& args) const = 0;
  [[nodiscard]] virtual int64_t workspace_bytes(const OpArgs& args,
                                                const LaunchContext& ctx) const = 0;

  /// Copies (and repacks) a host weight into device memory. `weight` is [n, k], [experts * n, k] or
  /// [n], row-major, in the dtype it shall have on the device; `experts` divides its rows. Throws
  /// OutOfMemory.
  virtual OwnedWeight prepare_weight(const TensorView& weight, WeightUse use,
                                     int64_t experts = 1) = 0;
  /// prepare_weight for a matrix (no kVector) that need not exist as a whole in host memory: `read`
  /// is called on this thread for pieces that cover every row once, in order. Unless a backend does
  /// better, the one piece is all of it. Throws OutOfMemory, and what `read` throws.
  virtual OwnedWeight load_weight(const WeightShape& shape, const WeightReader& read);
  [[nodiscard]] virtual KvLayout kv_layout(const KvShape& shape) const = 0;

  /// Asynchronous on ctx.lane. Shapes are checked here (NANO_CHECK).
  virtual void launch(const OpArgs& args, const LaunchContext& ctx) = 0;
  /// Asynchronous on `lane`, host to device or back, or within the device. Both contiguous, same
  /// size.
  virtual void copy(const TensorView& dst, const TensorView& src, LaneId lane) = 0;

  virtual EventId create_event() = 0;
  /// Marks the current end of `lane`. Recording again moves the marker.
  virtual void record(LaneId lane, EventId event) = 0;
  /// Later work of `lane` starts after what the event's latest record() marked.
  virtual void wait(LaneId lane, EventId event) = 0;
  /// Blocks the calling thread until the event's latest record() is reached. Throws what a launch
  /// before it threw.
  virtual void synchronize_event(EventId event) = 0;

  virtual StampId create_stamp() = 0;
  /// Reads the device's clock when `lane` gets here; when captured, at every replay. The last
  /// reading counts.
  virtual void stamp(LaneId lane, StampId stamp) = 0;
  /// Nanoseconds from one reading to the other, negative when `to` was first. Both must have been
  /// reached, as synchronize_event() or synchronize() show. Throws what work before them threw.
  virtual int64_t elapsed_ns(StampId from, StampId to) = 0;

  /// Between begin and end, launches, copies, records, waits and stamps are kept instead of run.
  virtual void begin_capture() = 0;
  virtual GraphId end_capture() = 0;
  /// Runs the captured calls again, in the lanes and order in which they were captured.
  virtual void replay(GraphId graph) = 0;

  /// Blocks until all lanes are idle. Asynchronous errors surface here as exceptions.
  virtual void synchronize() = 0;
};

}  // namespace nanoflow
