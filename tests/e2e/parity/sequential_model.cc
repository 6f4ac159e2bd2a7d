#include "parity/sequential_model.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/backend.h"
#include "pipeline/builtin_specs.h"
#include "pipeline/executor.h"
#include "pipeline/lower.h"
#include "pipeline/verify.h"
#ifdef NANOFLOW_HAS_CUDA
#include "backend/cuda/factory.h"
#endif

namespace nanoflow {

/// Memory of one node at some rows of one layer.
class SequentialModel::StepBinder final : public Binder {
 public:
  StepBinder(SequentialModel& model, const OpGraph& graph, int layer, RowRange rows, int64_t total)
      : model_(model), graph_(graph), layer_(layer), rows_(rows), total_(total) {}

  [[nodiscard]] int layer() const override { return layer_; }
  [[nodiscard]] RowRange rows() const override { return rows_; }
  [[nodiscard]] TensorView view(SymbolId symbol) const override {
    const int64_t n = graph_.symbols[static_cast<size_t>(symbol)].rows_per_token;
    return view_all(symbol).slice_rows(rows_.begin * n, rows_.end * n);
  }
  [[nodiscard]] TensorView view_all(SymbolId symbol) const override {
    const Symbol& s = graph_.symbols[static_cast<size_t>(symbol)];
    return model_.symbol_memory(s, total_);
  }
  [[nodiscard]] PackedWeight weight(std::string_view name) const override {
    const bool of_layer = layer_ >= 0 && model_.weights_.contains(name, layer_);
    return model_.weights_.weight(name, of_layer ? layer_ : -1);
  }
  [[nodiscard]] KvCacheView kv_cache() const override { return model_.cache(layer_); }
  [[nodiscard]] const StepInputs& step() const override { return model_.inputs_; }

 private:
  SequentialModel& model_;
  const OpGraph& graph_;
  int layer_;
  RowRange rows_;
  int64_t total_;
};

namespace {

LoadOptions load_options(const SequentialOptions& o) {
  return {.dtype = o.act,
          .tp_rank = o.tp_rank,
          .tp_size = o.tp_size,
          .max_positions = o.max_length,
          .num_threads = 2};
}

std::unique_ptr<Backend> make_backend(const SequentialOptions& o) {
#ifdef NANOFLOW_HAS_CUDA
  if (o.cuda) return make_cuda_backend({.lanes = 3, .comm = o.comm});
#endif
  NANO_CHECK(!o.cuda, "no CUDA backend was built");
  return std::make_unique<CpuBackend>(CpuBackendOptions{
      .threads = o.threads, .lanes = 3, .comm = o.comm, .reference_kernels = o.reference_kernels});
}

}  // namespace

SequentialModel::SequentialModel(const ModelConfig& config, const CheckpointSource& source,
                                 SequentialOptions options)
    : config_(config),
      options_(std::move(options)),
      backend_(make_backend(options_)),
      weights_(config, source, *backend_, load_options(options_)),
      forward_(build_forward_graph(config, options_.tp_size, options_.act)),
      sample_(build_sample_graph(config, options_.tp_size, options_.act)) {
  layout_ = backend_->kv_layout({config.kv_heads(options_.tp_size), config.head_dim, options_.act});
  pages_per_seq_ = (options_.max_length + layout_.page_size - 1) / layout_.page_size;
  const int64_t bytes =
      pages_per_seq_ * options_.max_seqs * layout_.page_stride * dtype_size(options_.act);
  for (int64_t i = 0; i < 2 * config.num_hidden_layers; ++i)
    caches_.push_back(backend_->allocate(bytes));
}

KvCacheView SequentialModel::cache(int layer) const {
  const size_t index = 2 * static_cast<size_t>(layer);
  return {.k = caches_[index].data(),
          .v = caches_[index + 1].data(),
          .dtype = options_.act,
          .num_pages = pages_per_seq_ * options_.max_seqs,
          .page_size = layout_.page_size,
          .page_stride = layout_.page_stride,
          .slot_stride = layout_.slot_stride,
          .head_stride = layout_.head_stride};
}

int32_t SequentialModel::page_of(int seq, int64_t index) const {
  // Sequences' pages are interleaved and run backwards, so that a wrong page is never the right one
  // by luck.
  return static_cast<int32_t>((pages_per_seq_ - 1 - index) * options_.max_seqs + seq);
}

void SequentialModel::append_chunk(const ModelChunk& chunk) {
  const auto seq = static_cast<int32_t>(q_indptr_.size()) - 1;
  const int64_t page_size = layout_.page_size;
  for (size_t i = 0; i < chunk.tokens.size(); ++i) {
    const int64_t position = chunk.start + static_cast<int64_t>(i);
    token_ids_.push_back(chunk.tokens[i]);
    positions_.push_back(static_cast<int32_t>(position));
    row_seq_.push_back(seq);
    kv_slots_.push_back(static_cast<int32_t>(page_of(chunk.seq, position / page_size) * page_size +
                                             position % page_size));
  }
  const int64_t length = chunk.start + static_cast<int64_t>(chunk.tokens.size());
  const int64_t pages = (length + page_size - 1) / page_size;
  for (int64_t p = 0; p < pages; ++p) kv_page_indices_.push_back(page_of(chunk.seq, p));
  kv_page_indptr_.push_back(static_cast<int32_t>(kv_page_indices_.size()));
  kv_last_page_len_.push_back(static_cast<int32_t>(length - (pages - 1) * page_size));
  q_indptr_.push_back(static_cast<int32_t>(token_ids_.size()));
}

void SequentialModel::fill_step(const std::vector<ModelChunk>& decodes,
                                const std::vector<ModelChunk>& prefills) {
  for (auto* v : {&token_ids_, &positions_, &row_seq_, &kv_slots_, &kv_page_indices_,
                  &kv_last_page_len_, &sample_rows_})
    v->clear();
  q_indptr_ = kv_page_indptr_ = {0};
  for (const ModelChunk& chunk : decodes) append_chunk(chunk);
  header_.num_decode_rows = static_cast<int32_t>(token_ids_.size());
  for (const ModelChunk& chunk : prefills) append_chunk(chunk);
  header_.num_rows = static_cast<int32_t>(token_ids_.size());
  header_.num_seqs = static_cast<int32_t>(q_indptr_.size()) - 1;
  header_.num_samples = header_.num_rows;
  for (int32_t i = 0; i < header_.num_rows; ++i) sample_rows_.push_back(i);
  for (int i = 0; i < options_.padding; ++i) {
    for (auto* v : {&token_ids_, &positions_, &row_seq_, &sample_rows_}) v->push_back(0);
    kv_slots_.push_back(-1);
  }
  last_token_.assign(static_cast<size_t>(options_.max_seqs), 0);
  step_memory_.clear();
  const auto upload = [&](const std::vector<int32_t>& v) {
    const auto count = static_cast<int64_t>(v.size());
    step_memory_.push_back(to_device(v.data(), 4 * count));
    return step_memory_.back().view(DType::kI32, {count});
  };
  step_memory_.push_back(to_device(&header_, sizeof(header_)));
  inputs_ = {.header = static_cast<const StepHeader*>(step_memory_.back().data()),
             .token_ids = upload(token_ids_),
             .positions = upload(positions_),
             .row_seq = upload(row_seq_),
             .kv_slots = upload(kv_slots_),
             .q_indptr = upload(q_indptr_),
             .kv_page_indptr = upload(kv_page_indptr_),
             .kv_page_indices = upload(kv_page_indices_),
             .kv_last_page_len = upload(kv_last_page_len_),
             .last_token = upload(last_token_),
             .sample_rows = upload(sample_rows_)};
}

Buffer SequentialModel::to_device(const void* data, int64_t bytes) {
  Buffer device = backend_->allocate(std::max<int64_t>(1, bytes));
  const Buffer host = backend_->allocate_pinned(std::max<int64_t>(1, bytes));
  std::memcpy(host.data(), data, static_cast<size_t>(bytes));
  backend_->copy(device.view(DType::kU8, {bytes}), host.view(DType::kU8, {bytes}), 0);
  backend_->synchronize();
  return device;
}

void SequentialModel::poison(const Buffer& buffer) {
  const Buffer host = backend_->allocate_pinned(buffer.size());
  std::memset(host.data(), 0xff, static_cast<size_t>(host.size()));
  const auto bytes = [](const Buffer& b) { return b.view(DType::kU8, {b.size()}); };
  backend_->copy(bytes(buffer), bytes(host), 0);
  backend_->synchronize();
}

std::vector<float> SequentialModel::read(const TensorView& logits, int64_t rows) {
  const TensorView live = logits.slice_rows(0, rows);
  const Buffer host = backend_->allocate_pinned(live.size_bytes());
  const TensorView copy = host.view(DType::kF32, {rows, live.cols()});
  backend_->copy(copy, live, 0);
  backend_->synchronize();
  std::vector<float> out;
  for (int64_t r = 0; r < rows; ++r)
    out.insert(out.end(), copy.row<float>(r), copy.row<float>(r) + config_.vocab_size);
  return out;
}

TensorView SequentialModel::symbol_memory(const Symbol& symbol, int64_t rows) {
  const int64_t total = rows * symbol.rows_per_token;
  const int64_t bytes = total * symbol.cols * dtype_size(symbol.dtype);
  Buffer& buffer = memory_[symbol.name];
  if (buffer.size() < bytes) {
    buffer = backend_->allocate(bytes);
    poison(buffer);
  }
  return buffer.view(symbol.dtype, {total, symbol.cols});
}

void SequentialModel::run_node(const OpGraph& graph, const OpNode& node, int layer, int64_t rows) {
  std::vector<int64_t> edges = {0};
  for (const int64_t cut : options_.cuts)
    if (cut > edges.back() && cut < rows && node.split == SplitBy::kToken) edges.push_back(cut);
  edges.push_back(rows);
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    const RowRange range = {edges[i], edges[i + 1]};
    const StepBinder binder(*this, graph, layer, range, rows);
    const OpArgs args = node.bind(binder);
    check_shapes(args);
    NANO_CHECK(backend_->supports(args), "{} is not supported", node.name);
    LaunchContext context{.rows = range, .header = inputs_.header};
    const Buffer workspace =
        backend_->allocate(std::max<int64_t>(1, backend_->workspace_bytes(args, context)));
    context.workspace = workspace.view(DType::kU8, {workspace.size()});
    backend_->launch(args, context);
    backend_->synchronize();
  }
}

void SequentialModel::walk(const OpGraph& graph, int64_t rows, const std::string& stop_before) {
  for (const Section section : {Section::kPrologue, Section::kLayer, Section::kEpilogue}) {
    const int first = section == Section::kLayer ? 0 : -1;
    const int end = section == Section::kLayer ? graph.num_layers : 0;
    for (int layer = first; layer < end; ++layer)
      for (const OpNode& node : graph.nodes)
        if (node.section == section && node.name != stop_before) run_node(graph, node, layer, rows);
  }
}

void SequentialModel::run_plan(const OpGraph& graph, int64_t rows) {
  BindEnvironment environment{.rows = rows, .backend = backend_.get(), .weights = &weights_};
  for (const Symbol& symbol : graph.symbols)
    if (symbol.space == SymbolSpace::kExternal)
      environment.external[symbol.name] = symbol_memory(symbol, rows);
  for (int layer = 0; layer < graph.num_layers; ++layer) environment.kv.push_back(cache(layer));
  environment.step = inputs_;
  const PipelineSpec spec = load_spec(options_.pipeline, graph);
  const Buffer arena = backend_->allocate(lower(graph, spec, environment).arena_bytes);
  poison(arena);
  environment.arena = arena.view(DType::kU8, {arena.size()});
  const Plan plan = lower(graph, spec, environment);
  const std::vector<std::string> problems = verify(plan, graph, backend_->device().num_sms);
  NANO_CHECK(problems.empty(), "{}", problems.front());
  Executor(*backend_).run(plan);
  backend_->synchronize();
}

std::vector<float> SequentialModel::step(const std::vector<ModelChunk>& decodes,
                                         const std::vector<ModelChunk>& prefills) {
  fill_step(decodes, prefills);
  const int64_t rows = header_.num_rows + options_.padding;
  if (options_.pipeline.empty()) {
    walk(forward_, rows, "");
  } else {
    run_plan(forward_, rows);
  }
  walk(sample_, rows, "sample");
  const std::string name = options_.tp_size > 1 ? "all_logits" : "logits";
  for (const Symbol& symbol : sample_.symbols) {
    if (symbol.name != name) continue;
    return read(symbol_memory(symbol, rows), header_.num_rows);
  }
  NANO_CHECK(false, "no symbol {}", name);
  return {};
}

}  // namespace nanoflow
