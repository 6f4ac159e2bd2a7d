// CudaBackend: lanes as streams, events, graphs and memory of one GPU. How an op is computed is in
// the kernels' files (kernels.h, gemm.h).
#pragma once

#include <memory>
#include <vector>

#include "backend/cuda/cuda.h"
#include "backend/cuda/device.h"
#include "backend/cuda/factory.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/upload.h"
#include "ops/backend.h"

namespace nanoflow {

/// Backend on one GPU; made, used and destroyed on one thread. Errors of kernels surface in
/// synchronize() and synchronize_event(), or in any later call, as CudaError; the GPU's context is
/// lost then.
class CudaBackend final : public Backend {
 public:
  /// Throws CudaError when the GPU cannot be used, ConfigError for several ranks; NANO_CHECKs at
  /// least one lane.
  explicit CudaBackend(const CudaBackendOptions& options);
  /// Waits until the GPU is idle. Does not throw.
  ~CudaBackend() override;
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;

  [[nodiscard]] DeviceInfo device() const override;
  [[nodiscard]] const cuda::DeviceLimits& limits() const { return limits_; }
  [[nodiscard]] int max_lanes() const override { return static_cast<int>(streams_.size()); }
  /// Aligned to 256 bytes.
  Buffer allocate(int64_t bytes) override;
  Buffer allocate_pinned(int64_t bytes) override;
  [[nodiscard]] bool supports(const OpArgs& args) const override;
  [[nodiscard]] int64_t workspace_bytes(const OpArgs& args,
                                        const LaunchContext& ctx) const override;
  /// Returns once `weight` has been read; launches that follow see the copy.
  OwnedWeight prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) override;
  /// As above; host memory for it is 48 MiB of page-locked pieces.
  OwnedWeight load_weight(const WeightShape& shape, const WeightReader& read) override;
  /// Pages of 64 tokens; K of all heads, then V of all heads; per head its tokens one after the
  /// other, so that K of one (page, head) is a contiguous [64, head_dim] tile.
  [[nodiscard]] KvLayout kv_layout(const KvShape& shape) const override;

  /// Hard SM budgets throw ConfigError.
  void launch(const OpArgs& args, const LaunchContext& ctx) override;
  void copy(const TensorView& dst, const TensorView& src, LaneId lane) override;

  EventId create_event() override;
  void record(LaneId lane, EventId event) override;
  void wait(LaneId lane, EventId event) override;
  void synchronize_event(EventId event) override;

  StampId create_stamp() override;
  /// Captured stamps become nodes of the graph, each a microsecond or so, between which kernels do
  /// not overlap.
  void stamp(LaneId lane, StampId stamp) override;
  int64_t elapsed_ns(StampId from, StampId to) override;

  /// While a capture is open, the lanes' work becomes a graph; what the capture recorded counts as
  /// reached when a replay has run whole.
  void begin_capture() override;
  GraphId end_capture() override;
  void replay(GraphId graph) override;

  void synchronize() override;

 private:
  static constexpr int64_t kPageSize = 64;

  struct Mark {
    cuda::Event own;          ///< of records outside captures
    GraphId replayed = -1;    ///< >= 0: the latest record was this graph's; its end stands for it
    bool in_capture = false;  ///< recorded in the open capture, ...
    cudaEvent_t captured = nullptr;  ///< ... by this event
  };
  struct Replayable {
    cuda::Graph graph;
    cuda::Event done;
    std::vector<LaneId> lanes;      ///< that the capture used, lane 0 first
    std::vector<EventId> recorded;  ///< by the capture
    std::vector<EventId> awaited;   ///< in the capture, but recorded before it
  };

  [[nodiscard]] cudaStream_t stream(LaneId lane);
  [[nodiscard]] Mark& mark(EventId id);
  [[nodiscard]] cudaEvent_t stamp_event(StampId id) const;
  [[nodiscard]] cudaEvent_t latest(const Mark& mark) const;
  /// Memory for a weight; `rank` 1 or 2.
  OwnedWeight make_weight(const WeightShape& shape, int rank);
  cuda::Uploader& uploader();
  /// Holds all lanes until what was uploaded has arrived.
  void wait_for_uploads();
  [[nodiscard]] int usable_sms(const SmBudget& budget) const;

  const CudaBackendOptions options_;
  const cuda::DeviceLimits limits_;
  std::vector<cuda::Stream> streams_;  // one per lane
  std::unique_ptr<cuda::Gemm> gemm_;
  std::vector<Mark> marks_;
  std::vector<cuda::Event> stamps_;
  std::unique_ptr<cuda::Uploader> uploader_;  // made by the first weight, so tests stay small
  cuda::Event uploaded_;
  bool capturing_ = false;
  cuda::Event fork_;
  std::vector<bool> forked_;  // lanes that the open capture uses
  Replayable capture_;
  std::vector<cuda::Event> captured_events_;  // of the open capture
  std::vector<Replayable> graphs_;
};

}  // namespace nanoflow
