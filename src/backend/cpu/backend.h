// CpuBackend: the reference implementation of every op and its fast version, on lanes that are
// threads. What runs on a lane is in lane.h; what an op computes is in kernels.h.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/lane.h"
#include "backend/cpu/pool.h"
#include "base/clock.h"
#include "comm/communicator.h"
#include "ops/backend.h"

namespace nanoflow {

struct CpuBackendOptions {
  int threads = 0;                 ///< cores that one op may use; 0: all of this process
  int lanes = 4;                   ///< see Backend::max_lanes
  Communicator* comm = nullptr;    ///< outlives the backend; null: collectives of one rank
  bool reference_kernels = false;  ///< plain loops whose rows have the same bits in any batch
  int64_t page_size = 16;          ///< tokens per KV page
};

/// Backend on host memory. An exception thrown by a kernel or the communicator is kept; later work
/// is skipped (events still fire) and synchronize() or synchronize_event() rethrows it.
class CpuBackend final : public Backend {
 public:
  /// NANO_CHECKs options (at least one lane, non-negative threads, positive page size).
  explicit CpuBackend(const CpuBackendOptions& options);
  /// Runs what is queued, then joins the lanes. Does not throw.
  ~CpuBackend() override;

  [[nodiscard]] DeviceInfo device() const override;
  [[nodiscard]] int max_lanes() const override { return static_cast<int>(lanes_.size()); }
  /// Aligned to 64 bytes; from 4 MiB on to huge pages.
  Buffer allocate(int64_t bytes) override;
  Buffer allocate_pinned(int64_t bytes) override;
  [[nodiscard]] bool supports(const OpArgs& args) const override;
  [[nodiscard]] int64_t workspace_bytes(const OpArgs& args,
                                        const LaunchContext& ctx) const override;
  OwnedWeight prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) override;
  /// Reads row-major weights in place, and packs others in pieces of at most 16 MiB (or 32 rows).
  OwnedWeight load_weight(const WeightShape& shape, const WeightReader& read) override;
  [[nodiscard]] KvLayout kv_layout(const KvShape& shape) const override;

  void launch(const OpArgs& args, const LaunchContext& ctx) override;
  void copy(const TensorView& dst, const TensorView& src, LaneId lane) override;

  EventId create_event() override;
  void record(LaneId lane, EventId event) override;
  void wait(LaneId lane, EventId event) override;
  void synchronize_event(EventId event) override;

  StampId create_stamp() override;
  void stamp(LaneId lane, StampId stamp) override;
  int64_t elapsed_ns(StampId from, StampId to) override;

  void begin_capture() override;
  GraphId end_capture() override;
  void replay(GraphId graph) override;

  void synchronize() override;

 private:
  /// The position in a lane that an event's latest record marked; lane -1: never recorded.
  struct Mark {
    LaneId lane = -1;
    int64_t position = 0;
  };
  /// One captured call.
  struct Call {
    enum class Kind : uint8_t { kWork, kRecord, kWait } kind = Kind::kWork;
    LaneId lane = 0;
    EventId event = -1;
    std::function<void()> work;
  };
  using Graph = std::vector<Call>;

  [[nodiscard]] cpu::Lane& lane(LaneId id);
  [[nodiscard]] Mark& mark(EventId id);
  [[nodiscard]] int64_t& reading(StampId id);
  void submit(LaneId lane_id, std::function<void()> work);
  [[nodiscard]] std::function<void()> closure(const OpArgs& args, const LaunchContext& ctx);
  [[nodiscard]] bool packs(WeightUse use) const;
  /// Memory for panels of `shape`; what they hold is undefined.
  [[nodiscard]] OwnedWeight allocate_panels(const WeightShape& shape);
  /// Packs rows [row_begin, row_begin + rows.rows()) of expert `expert`; row_begin is at a panel's
  /// begin, and the last row at a panel's or the expert's end.
  void pack_rows(const OwnedWeight& weight, int64_t expert, int64_t row_begin,
                 const TensorView& rows);

  const CpuBackendOptions options_;
  const int threads_;
  // Rows that load_weight is about to pack. Kept between weights, so that its pages are touched for
  // the first time once.
  Buffer piece_;
  cpu::Failure failure_;
  cpu::Pool pool_;
  std::vector<cpu::Scratch> scratch_;  // one per lane
  std::vector<Mark> marks_;
  const SteadyClock clock_;
  std::deque<int64_t> readings_;  // by stamp; written by lanes, so their addresses stay
  bool capturing_ = false;
  Graph capture_;
  std::vector<std::unique_ptr<Graph>> graphs_;     // addresses stay: lanes point into them
  std::vector<std::unique_ptr<cpu::Lane>> lanes_;  // last, so joined before what they use
};

}  // namespace nanoflow
