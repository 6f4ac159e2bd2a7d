#include "backend/cpu/backend.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "backend/cpu/device.h"
#include "backend/cpu/element.h"
#include "backend/cpu/gemm_panels.h"
#include "backend/cpu/parallel.h"
#include "base/check.h"
#include "base/cores.h"
#include "base/error.h"

namespace nanoflow {
namespace {

/// Rows and columns of a contiguous-or-strided copy as bytes.
void copy_rows(const TensorView& dst, const TensorView& src) {
  if (dst.empty()) return;
  std::memcpy(dst.data(), src.data(), static_cast<size_t>(src.size_bytes()));
}

}  // namespace

CpuBackend::CpuBackend(const CpuBackendOptions& options)
    : options_(options),
      threads_(options.threads > 0 ? options.threads : usable_cores()),
      pool_(threads_ - 1),
      scratch_(static_cast<size_t>(std::max(1, options.lanes))) {
  NANO_CHECK(options.lanes >= 1 && options.threads >= 0 && options.page_size >= 1,
             "{} lanes, {} threads, page size {}", options.lanes, options.threads,
             options.page_size);
  // A rank that failed will not come to the next collective; the others must not wait for it.
  if (options.comm != nullptr) failure_.on_failure([comm = options.comm] { comm->abort(); });
  for (int i = 0; i < options.lanes; ++i) lanes_.push_back(std::make_unique<cpu::Lane>(failure_));
}

CpuBackend::~CpuBackend() {
  // Lanes wait for each other, so all must be idle before the first is destroyed.
  for (const auto& l : lanes_) l->wait_for(l->position());
}

DeviceInfo CpuBackend::device() const {
  DeviceInfo info = cpu::read_device_info();
  info.num_sms = threads_;
  return info;
}

Buffer CpuBackend::allocate(int64_t bytes) {
  constexpr int64_t kHugePage = int64_t{2} << 20;
  if (bytes < 2 * kHugePage) return allocate_host(bytes);
  // Weights and KV pages are read once per step from all over: huge pages save their TLB misses.
  const auto rounded = static_cast<size_t>((bytes + kHugePage - 1) / kHugePage * kHugePage);
  void* data = std::aligned_alloc(static_cast<size_t>(kHugePage), rounded);
  if (data == nullptr)
    throw OutOfMemory(fmt::format("cannot allocate {:.1f} GiB of host memory",
                                  static_cast<double>(bytes) / (1 << 30)));
#if defined(__linux__)
  madvise(data, rounded, MADV_HUGEPAGE);  // advice: where it is refused, pages stay small
#endif
  return Buffer(data, bytes, Device{}, [](void* p) { std::free(p); });
}

Buffer CpuBackend::allocate_pinned(int64_t bytes) {
  return allocate_host(bytes);
}

bool CpuBackend::supports(const OpArgs& args) const {
  const auto cache_is_float = [](const KvCacheView& cache) {
    return cache.dtype == DType::kF32 || cache.dtype == DType::kBF16 || cache.dtype == DType::kF16;
  };
  if (const auto* a = std::get_if<PagedAttentionArgs>(&args)) return cache_is_float(a->cache);
  if (const auto* a = std::get_if<RopeAppendArgs>(&args)) return cache_is_float(a->cache);
  return true;
}

int64_t CpuBackend::workspace_bytes(const OpArgs&, const LaunchContext&) const {
  return 0;
}

bool CpuBackend::packs(WeightUse use) const {
  return !options_.reference_kernels && (use == WeightUse::kMatmul || use == WeightUse::kExperts);
}

OwnedWeight CpuBackend::allocate_panels(const WeightShape& shape) {
  const int64_t n = shape.rows / shape.experts;
  const int64_t elements =
      shape.experts * cpu::num_panels(n) * cpu::panel_elements(shape.dtype, shape.cols);
  OwnedWeight owned;
  owned.storage = allocate(elements * dtype_size(shape.dtype));
  owned.packed = {.data = owned.storage.view(shape.dtype, {elements}),
                  .n = n,
                  .k = shape.cols,
                  .experts = shape.experts,
                  .layout = cpu::kPanelLayout};
  return owned;
}

void CpuBackend::pack_rows(const OwnedWeight& weight, int64_t expert, int64_t row_begin,
                           const TensorView& rows) {
  const int64_t panel_bytes =
      cpu::panel_elements(rows.dtype(), rows.cols()) * dtype_size(rows.dtype());
  const int64_t first = expert * cpu::num_panels(weight.packed.n) + row_begin / cpu::kPanelCols;
  auto* out = static_cast<std::byte*>(weight.storage.data()) + first * panel_bytes;
  const cpu::Run run{.threads = threads_, .pool = &pool_};
  cpu::parallel_chunks(run, cpu::num_panels(rows.rows()), 1, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * cpu::kPanelCols, rows.rows());
    cpu::pack_panels(rows.slice_rows(begin * cpu::kPanelCols, last), out + begin * panel_bytes);
  });
}

OwnedWeight CpuBackend::load_weight(const WeightShape& shape, const WeightReader& read) {
  NANO_CHECK(
      shape.use != WeightUse::kVector && shape.experts >= 1 && shape.rows % shape.experts == 0,
      "weight [{}, {}] of {} experts", shape.rows, shape.cols, shape.experts);
  const int64_t row_bytes = shape.cols * dtype_size(shape.dtype);
  if (!packs(shape.use)) {
    OwnedWeight owned;
    owned.storage = allocate(shape.rows * row_bytes);
    owned.packed = {.data = owned.storage.view(shape.dtype, {shape.rows, shape.cols}),
                    .n = shape.rows / shape.experts,
                    .k = shape.cols,
                    .experts = shape.experts};
    read(0, owned.packed.data);
    return owned;
  }
  // Large enough that all threads have work, small beside any machine's memory.
  constexpr int64_t kPieceBytes = int64_t{16} << 20;
  OwnedWeight owned = allocate_panels(shape);
  const int64_t n = owned.packed.n;
  const int64_t fitting = kPieceBytes / std::max<int64_t>(1, row_bytes);
  const int64_t step = std::max(cpu::kPanelCols, fitting / cpu::kPanelCols * cpu::kPanelCols);
  const int64_t piece_bytes = std::min(step, n) * row_bytes;
  if (piece_.size() < piece_bytes) {
    piece_ = Buffer();  // first, so that two never exist
    piece_ = allocate(piece_bytes);
  }
  for (int64_t expert = 0; expert < shape.experts; ++expert) {
    for (int64_t row = 0; row < n; row += step) {
      const TensorView rows = piece_.view(shape.dtype, {std::min(step, n - row), shape.cols});
      read(expert * n + row, rows);
      pack_rows(owned, expert, row, rows);
    }
  }
  return owned;
}

OwnedWeight CpuBackend::prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) {
  NANO_CHECK(
      weight.rank() >= 1 && weight.rank() <= 2 && experts >= 1 && weight.rows() % experts == 0,
      "weight {} of {} experts", weight.to_string(), experts);
  if (packs(use)) {
    OwnedWeight owned =
        allocate_panels({weight.rows(), weight.cols(), weight.dtype(), use, experts});
    const int64_t n = owned.packed.n;
    for (int64_t e = 0; e < experts; ++e)
      pack_rows(owned, e, 0, weight.slice_rows(e * n, (e + 1) * n));
    return owned;
  }
  OwnedWeight owned;
  owned.storage = allocate(weight.size_bytes());
  TensorView data = weight.rank() == 1
                        ? owned.storage.view(weight.dtype(), {weight.rows()})
                        : owned.storage.view(weight.dtype(), {weight.rows(), weight.cols()});
  for (int64_t r = 0; r < weight.rows(); ++r)
    std::memcpy(cpu::mutable_row_data(data, r), cpu::row_data(weight, r),
                static_cast<size_t>(weight.cols() * dtype_size(weight.dtype())));
  owned.packed.data = data;
  owned.packed.n = weight.rows() / experts;
  owned.packed.k = weight.rank() == 1 ? 1 : weight.cols();
  owned.packed.experts = experts;
  return owned;
}

KvLayout CpuBackend::kv_layout(const KvShape& shape) const {
  // Per page: K of all heads, then V of all heads; per head its tokens one after the other, so that
  // attention of one head streams through contiguous memory.
  KvLayout layout;
  layout.page_size = options_.page_size;
  layout.slot_stride = shape.head_dim;
  layout.head_stride = options_.page_size * shape.head_dim;
  layout.page_stride = 2 * shape.num_kv_heads * layout.head_stride;
  layout.bytes_per_page = layout.page_stride * dtype_size(shape.dtype);
  return layout;
}

cpu::Lane& CpuBackend::lane(LaneId id) {
  NANO_CHECK(id >= 0 && id < max_lanes(), "lane {} of {}", id, max_lanes());
  return *lanes_[static_cast<size_t>(id)];
}

CpuBackend::Mark& CpuBackend::mark(EventId id) {
  NANO_CHECK(id >= 0 && id < static_cast<EventId>(marks_.size()), "event {} of {}", id,
             marks_.size());
  return marks_[static_cast<size_t>(id)];
}

void CpuBackend::submit(LaneId lane_id, std::function<void()> work) {
  cpu::Lane& target = lane(lane_id);
  if (capturing_) {
    capture_.push_back(Call{.lane = lane_id, .work = std::move(work)});
  } else {
    target.enqueue(std::move(work));
  }
}

std::function<void()> CpuBackend::closure(const OpArgs& args, const LaunchContext& ctx) {
  const int share = ctx.sm.sms > 0 ? std::min(ctx.sm.sms, threads_) : threads_;
  const cpu::Run run{.threads = share,
                     .pool = &pool_,
                     .scratch = &scratch_[static_cast<size_t>(ctx.lane)],
                     .rows = ctx.rows,
                     .header = ctx.header,
                     .comm = options_.comm};
  return std::visit(
      [&]<typename Args>(const Args& a) -> std::function<void()> {
        if (options_.reference_kernels) return [a, run] { cpu::reference::run(a, run); };
        return [a, run] { cpu::fast::run(a, run); };
      },
      args);
}

void CpuBackend::launch(const OpArgs& args, const LaunchContext& ctx) {
  check_shapes(args);
  NANO_CHECK(ctx.lane >= 0 && ctx.lane < max_lanes(), "lane {} of {}", ctx.lane, max_lanes());
  submit(ctx.lane, closure(args, ctx));
}

void CpuBackend::copy(const TensorView& dst, const TensorView& src, LaneId lane_id) {
  NANO_CHECK(dst.is_contiguous() && src.is_contiguous() && dst.size_bytes() == src.size_bytes(),
             "copy of {} to {}", src.to_string(), dst.to_string());
  submit(lane_id, [dst, src] { copy_rows(dst, src); });
}

EventId CpuBackend::create_event() {
  marks_.emplace_back();
  return static_cast<EventId>(marks_.size()) - 1;
}

void CpuBackend::record(LaneId lane_id, EventId event) {
  Mark& m = mark(event);
  if (capturing_) {
    capture_.push_back(Call{.kind = Call::Kind::kRecord, .lane = lane_id, .event = event});
  } else {
    m = Mark{lane_id, lane(lane_id).position()};
  }
}

void CpuBackend::wait(LaneId lane_id, EventId event) {
  const Mark m = mark(event);
  cpu::Lane& waiter = lane(lane_id);
  if (capturing_) {
    capture_.push_back(Call{.kind = Call::Kind::kWait, .lane = lane_id, .event = event});
  } else if (m.lane >= 0) {
    waiter.enqueue_wait(lane(m.lane), m.position);
  }
}

void CpuBackend::synchronize_event(EventId event) {
  const Mark m = mark(event);
  if (m.lane >= 0) lane(m.lane).wait_for(m.position);
  failure_.rethrow();
}

int64_t& CpuBackend::reading(StampId id) {
  NANO_CHECK(id >= 0 && id < static_cast<StampId>(readings_.size()), "stamp {} of {}", id,
             readings_.size());
  return readings_[static_cast<size_t>(id)];
}

StampId CpuBackend::create_stamp() {
  readings_.push_back(0);
  return static_cast<StampId>(readings_.size()) - 1;
}

void CpuBackend::stamp(LaneId lane_id, StampId id) {
  submit(lane_id, [this, to = &reading(id)] { *to = clock_.now_ns(); });
}

int64_t CpuBackend::elapsed_ns(StampId from, StampId to) {
  failure_.rethrow();
  return reading(to) - reading(from);
}

void CpuBackend::begin_capture() {
  NANO_CHECK(!capturing_, "a capture is already open");
  capturing_ = true;
  capture_.clear();
}

GraphId CpuBackend::end_capture() {
  NANO_CHECK(capturing_, "no capture is open");
  capturing_ = false;
  graphs_.push_back(std::make_unique<Graph>(std::exchange(capture_, {})));
  return static_cast<GraphId>(graphs_.size()) - 1;
}

void CpuBackend::replay(GraphId graph) {
  NANO_CHECK(!capturing_, "replay inside a capture");
  NANO_CHECK(graph >= 0 && graph < static_cast<GraphId>(graphs_.size()), "graph {} of {}", graph,
             graphs_.size());
  for (const Call& call : *graphs_[static_cast<size_t>(graph)]) {
    switch (call.kind) {
      case Call::Kind::kWork: lane(call.lane).enqueue(&call.work); break;
      case Call::Kind::kRecord: record(call.lane, call.event); break;
      case Call::Kind::kWait: wait(call.lane, call.event); break;
    }
  }
}

void CpuBackend::synchronize() {
  for (const auto& l : lanes_) l->wait_for(l->position());
  failure_.rethrow();
}

}  // namespace nanoflow
