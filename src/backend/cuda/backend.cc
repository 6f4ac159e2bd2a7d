#include "backend/cuda/backend.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "backend/cuda/fallback.h"
#include "backend/cuda/gemm_few_rows.h"
#include "base/check.h"

namespace nanoflow {
namespace {

using cuda::cuda_check;

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

/// How one launch is computed: the tuned kernel where it applies, else the fallback.
struct Dispatch {
  const cuda::Launch& launch;
  cuda::Gemm& gemm;

  template <typename Args>
  void operator()(const Args& args) const {
    cuda::run(args, launch);
  }
  void operator()(const GemmArgs& args) const {
    if (cuda::supports_few_rows(args, *launch.device)) return cuda::run_few_rows(args, launch);
    if (cuda::Gemm::supports(args)) return gemm.run(args, launch);
    cuda::fallback::run(args, launch);
  }
  void operator()(const GroupedGemmArgs& args) const {
    if (cuda::supports(args, *launch.device)) return cuda::run(args, launch);
    cuda::fallback::run(args, launch);
  }
  void operator()(const PagedAttentionArgs& args) const {
    if (cuda::supports(args, *launch.device)) return cuda::run(args, launch);
    cuda::fallback::run(args, launch);
  }
};

struct WorkspaceBytes {
  const cuda::DeviceLimits& device;
  int sms;
  cuda::Gemm& gemm;

  template <typename Args>
  int64_t operator()(const Args&) const {
    return 0;
  }
  int64_t operator()(const GemmArgs& args) const {
    if (cuda::supports_few_rows(args, device)) return 0;
    return cuda::Gemm::supports(args) ? gemm.workspace_bytes(args, sms) : 0;
  }
  int64_t operator()(const MoeCombineArgs& args) const { return cuda::workspace_bytes(args); }
  int64_t operator()(const SampleArgs& args) const {
    return cuda::workspace_bytes(args, sms, device);
  }
  int64_t operator()(const GroupedGemmArgs& args) const {
    return cuda::supports(args, device) ? cuda::workspace_bytes(args, sms, device) : 0;
  }
  int64_t operator()(const PagedAttentionArgs& args) const {
    return cuda::supports(args, device) ? cuda::workspace_bytes(args, sms, device) : 0;
  }
};

struct Supports {
  template <typename Args>
  bool operator()(const Args&) const {
    return true;
  }
  bool operator()(const EmbedArgs& a) const { return a.out.dtype() == a.table.dtype(); }
  bool operator()(const RmsNormArgs& a) const { return a.weight.dtype() == a.x.dtype(); }
  bool operator()(const AddRmsNormArgs& a) const { return a.weight.dtype() == a.out.dtype(); }
  bool operator()(const MoeCombineArgs& a) const { return a.out.dtype() == a.x.dtype(); }
  bool operator()(const MoeRouteArgs& a) const { return a.logits.cols() <= cuda::kMaxExperts; }
  bool operator()(const MoeSortArgs& a) const { return a.offsets.rows() - 1 <= cuda::kMaxExperts; }
  bool operator()(const RopeAppendArgs& a) const {
    const auto norm_fits = [&](const TensorView& w) {
      return w.rank() == 0 || w.dtype() == a.qkv.dtype();
    };
    return a.cache.dtype == a.qkv.dtype() && norm_fits(a.q_norm) && norm_fits(a.k_norm);
  }
  bool operator()(const PagedAttentionArgs& a) const {
    return is_float(a.cache.dtype) && a.head_dim <= 512;
  }
};

}  // namespace

CudaBackend::CudaBackend(const CudaBackendOptions& options)
    : options_(options), limits_(cuda::require_device(options.ordinal)) {
  NANO_CHECK(options.lanes >= 1, "{} lanes", options.lanes);
  if (options.comm != nullptr && options.comm->size() > 1)
    throw ConfigError("tensor_parallel_size",
                      fmt::format("is {}, but the CUDA backend runs on one GPU: use 1, or "
                                  "--device cpu",
                                  options.comm->size()));
  cuda_check(cudaSetDevice(options.ordinal), "choosing the GPU");
  streams_.resize(static_cast<size_t>(options.lanes));
  std::vector<cuda::GemmTable> tables = cuda::shipped_gemm_tables();
  if (!options.gemm_table.empty()) tables.push_back(cuda::GemmTable::read(options.gemm_table));
  gemm_ = std::make_unique<cuda::Gemm>(limits_, tables);
}

CudaBackend::~CudaBackend() {
  (void)cudaDeviceSynchronize();
}

DeviceInfo CudaBackend::device() const {
  size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return {.name = limits_.name,
          .device = {Device::Kind::kCuda, limits_.ordinal},
          .num_sms = limits_.num_sms,
          .memory_bytes = static_cast<int64_t>(total),
          .free_bytes = static_cast<int64_t>(free),
          .preferred_dtype = DType::kBF16};
}

Buffer CudaBackend::allocate(int64_t bytes) {
  return Buffer(cuda::DeviceBuffer(bytes).release(), bytes,
                Device{Device::Kind::kCuda, limits_.ordinal}, [](void* p) { (void)cudaFree(p); });
}

Buffer CudaBackend::allocate_pinned(int64_t bytes) {
  return Buffer(cuda::PinnedBuffer(bytes).release(), bytes, Device{},
                [](void* p) { (void)cudaFreeHost(p); });
}

bool CudaBackend::supports(const OpArgs& args) const {
  return std::visit(Supports{}, args);
}

int64_t CudaBackend::workspace_bytes(const OpArgs& args, const LaunchContext& ctx) const {
  return std::visit(WorkspaceBytes{limits_, usable_sms(ctx.sm), *gemm_}, args);
}

OwnedWeight CudaBackend::make_weight(const WeightShape& shape, int rank) {
  NANO_CHECK(rank >= 1 && rank <= 2 && shape.experts >= 1 && shape.rows % shape.experts == 0,
             "weight [{}, {}] of {} experts", shape.rows, shape.cols, shape.experts);
  OwnedWeight owned;
  owned.storage = allocate(shape.rows * shape.cols * dtype_size(shape.dtype));
  void* data = owned.storage.data();
  const Device where = owned.storage.device();
  owned.packed.data = rank == 1 ? TensorView(data, shape.dtype, {shape.rows}, where)
                                : TensorView(data, shape.dtype, {shape.rows, shape.cols}, where);
  owned.packed.n = shape.rows / shape.experts;
  owned.packed.k = rank == 1 ? 1 : shape.cols;
  owned.packed.experts = shape.experts;
  return owned;
}

cuda::Uploader& CudaBackend::uploader() {
  NANO_CHECK(!capturing_, "a weight inside a capture");
  if (!uploader_) uploader_ = std::make_unique<cuda::Uploader>(limits_.ordinal);
  return *uploader_;
}

void CudaBackend::wait_for_uploads() {
  uploader_->record(uploaded_);
  for (const cuda::Stream& lane : streams_)
    cuda_check(cudaStreamWaitEvent(lane.get(), uploaded_.get()), "waiting for weights");
}

OwnedWeight CudaBackend::prepare_weight(const TensorView& weight, WeightUse use, int64_t experts) {
  OwnedWeight owned =
      make_weight({weight.rows(), weight.cols(), weight.dtype(), use, experts}, weight.rank());
  uploader().upload(owned.storage.data(), weight);
  wait_for_uploads();
  return owned;
}

OwnedWeight CudaBackend::load_weight(const WeightShape& shape, const WeightReader& read) {
  OwnedWeight owned = make_weight(shape, 2);
  uploader().load(owned.storage.data(), shape, read);
  wait_for_uploads();
  return owned;
}

KvLayout CudaBackend::kv_layout(const KvShape& shape) const {
  KvLayout layout;
  layout.page_size = kPageSize;
  layout.slot_stride = shape.head_dim;
  layout.head_stride = kPageSize * shape.head_dim;
  layout.page_stride = 2 * shape.num_kv_heads * layout.head_stride;
  layout.bytes_per_page = layout.page_stride * dtype_size(shape.dtype);
  return layout;
}

int CudaBackend::usable_sms(const SmBudget& budget) const {
  return budget.sms > 0 ? std::min(budget.sms, limits_.num_sms) : limits_.num_sms;
}

cudaStream_t CudaBackend::stream(LaneId lane) {
  NANO_CHECK(lane >= 0 && lane < max_lanes(), "lane {} of {}", lane, max_lanes());
  const cudaStream_t handle = streams_[static_cast<size_t>(lane)].get();
  if (capturing_ && !forked_[static_cast<size_t>(lane)]) {
    forked_[static_cast<size_t>(lane)] = true;
    capture_.lanes.push_back(lane);
    cuda_check(cudaStreamWaitEvent(handle, fork_.get()), "forking a captured lane");
  }
  return handle;
}

void CudaBackend::launch(const OpArgs& args, const LaunchContext& ctx) {
  check_shapes(args);
  if (ctx.sm.kind == SmBudget::Kind::kHard)
    throw ConfigError("pipeline",
                      "a hard SM budget is not available on CUDA: use soft budgets in the spec");
  const cuda::Launch launch{.stream = stream(ctx.lane),
                            .device = &limits_,
                            .sms = usable_sms(ctx.sm),
                            .workspace = ctx.workspace,
                            .rows = ctx.rows,
                            .header = ctx.header};
  std::visit(Dispatch{launch, *gemm_}, args);
}

void CudaBackend::copy(const TensorView& dst, const TensorView& src, LaneId lane) {
  NANO_CHECK(dst.is_contiguous() && src.is_contiguous() && dst.size_bytes() == src.size_bytes(),
             "copy of {} to {}", src.to_string(), dst.to_string());
  if (dst.empty()) return;
  cuda_check(cudaMemcpyAsync(dst.data(), src.data(), static_cast<size_t>(src.size_bytes()),
                             cudaMemcpyDefault, stream(lane)),
             "a copy");
}

CudaBackend::Mark& CudaBackend::mark(EventId id) {
  NANO_CHECK(id >= 0 && id < static_cast<EventId>(marks_.size()), "event {} of {}", id,
             marks_.size());
  return marks_[static_cast<size_t>(id)];
}

cudaEvent_t CudaBackend::latest(const Mark& m) const {
  return m.replayed < 0 ? m.own.get() : graphs_[static_cast<size_t>(m.replayed)].done.get();
}

EventId CudaBackend::create_event() {
  marks_.emplace_back();
  return static_cast<EventId>(marks_.size()) - 1;
}

void CudaBackend::record(LaneId lane, EventId event) {
  Mark& m = mark(event);
  const cudaStream_t on = stream(lane);
  if (capturing_) {
    if (!m.in_capture) capture_.recorded.push_back(event);
    m.in_capture = true;
    // An event of its own: the marker's must keep what it marked before the capture.
    captured_events_.emplace_back();
    m.captured = captured_events_.back().get();
    cuda_check(cudaEventRecord(m.captured, on), "capturing an event");
    return;
  }
  cuda_check(cudaEventRecord(m.own.get(), on), "recording an event");
  m.replayed = -1;
}

void CudaBackend::wait(LaneId lane, EventId event) {
  Mark& m = mark(event);
  const cudaStream_t on = stream(lane);
  if (capturing_ && !m.in_capture) {
    capture_.awaited.push_back(event);
    return;
  }
  cuda_check(cudaStreamWaitEvent(on, capturing_ ? m.captured : latest(m)), "waiting for an event");
}

void CudaBackend::synchronize_event(EventId event) {
  cuda::check_work(cudaEventSynchronize(latest(mark(event))), "work on the GPU");
}

cudaEvent_t CudaBackend::stamp_event(StampId id) const {
  NANO_CHECK(id >= 0 && id < static_cast<StampId>(stamps_.size()), "stamp {} of {}", id,
             stamps_.size());
  return stamps_[static_cast<size_t>(id)].get();
}

StampId CudaBackend::create_stamp() {
  stamps_.emplace_back(cuda::Event::Timing::kOn);
  return static_cast<StampId>(stamps_.size()) - 1;
}

void CudaBackend::stamp(LaneId lane, StampId id) {
  const cudaStream_t on = stream(lane);
  // External: a node that records the event itself; captured plainly it would only mark an edge.
  const unsigned flags = capturing_ ? cudaEventRecordExternal : cudaEventRecordDefault;
  cuda_check(cudaEventRecordWithFlags(stamp_event(id), on, flags), "a time stamp");
}

int64_t CudaBackend::elapsed_ns(StampId from, StampId to) {
  float ms = 0;
  cuda_check(cudaEventElapsedTime(&ms, stamp_event(from), stamp_event(to)), "reading a time stamp");
  return std::llround(static_cast<double>(ms) * 1e6);
}

void CudaBackend::begin_capture() {
  NANO_CHECK(!capturing_, "a capture is already open");
  const cudaStream_t first = stream(0);
  cuda_check(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal), "a capture");
  capturing_ = true;
  capture_ = Replayable();
  capture_.lanes = {0};
  forked_.assign(streams_.size(), false);
  forked_[0] = true;
  cuda_check(cudaEventRecord(fork_.get(), first), "a capture");
}

GraphId CudaBackend::end_capture() {
  NANO_CHECK(capturing_, "no capture is open");
  const cudaStream_t first = stream(0);
  for (const LaneId lane : capture_.lanes) {
    if (lane == 0) continue;
    captured_events_.emplace_back();
    cuda_check(cudaEventRecord(captured_events_.back().get(), stream(lane)), "joining lanes");
    cuda_check(cudaStreamWaitEvent(first, captured_events_.back().get()), "joining lanes");
  }
  capturing_ = false;
  for (const EventId event : capture_.recorded) mark(event).in_capture = false;
  cudaGraph_t graph = nullptr;
  cuda_check(cudaStreamEndCapture(first, &graph), "ending a capture");
  captured_events_.clear();
  capture_.graph = cuda::Graph(graph);
  // Else the first replay would do it, between a step's inputs and its first kernel.
  cuda_check(cudaGraphUpload(capture_.graph.get(), first), "making a graph ready");
  graphs_.push_back(std::exchange(capture_, Replayable()));
  return static_cast<GraphId>(graphs_.size()) - 1;
}

void CudaBackend::replay(GraphId graph) {
  NANO_CHECK(!capturing_, "replay inside a capture");
  NANO_CHECK(graph >= 0 && graph < static_cast<GraphId>(graphs_.size()), "graph {} of {}", graph,
             graphs_.size());
  const Replayable& r = graphs_[static_cast<size_t>(graph)];
  const cudaStream_t first = stream(0);
  for (const LaneId lane : r.lanes) {
    if (lane == 0) continue;
    cuda_check(cudaEventRecord(fork_.get(), stream(lane)), "a replay");
    cuda_check(cudaStreamWaitEvent(first, fork_.get()), "a replay");
  }
  for (const EventId event : r.awaited)
    cuda_check(cudaStreamWaitEvent(first, latest(mark(event))), "a replay");
  cuda_check(cudaGraphLaunch(r.graph.get(), first), "a replay");
  cuda_check(cudaEventRecord(r.done.get(), first), "a replay");
  for (const LaneId lane : r.lanes)
    if (lane != 0) cuda_check(cudaStreamWaitEvent(stream(lane), r.done.get()), "a replay");
  for (const EventId event : r.recorded) mark(event).replayed = graph;
}

void CudaBackend::synchronize() {
  for (const cuda::Stream& lane : streams_)
    cuda::check_work(cudaStreamSynchronize(lane.get()), "work on the GPU");
}

std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options) {
  return std::make_unique<CudaBackend>(options);
}

}  // namespace nanoflow
