#include "engine/step_plans.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "engine/device_memory.h"
#include "engine/row_bucket.h"
#include "model/graph.h"
#include "pipeline/builtin_specs.h"
#include "pipeline/verify.h"

namespace nanoflow {

namespace {

constexpr const char* kRemedy = "lower --max-num-batched-tokens";

/// Step inputs and results of the right shapes over `base`, to lower a plan that is only measured.
StepInputs shapes_of_inputs(void* base, const StepCapacity& c) {
  const auto int32 = [&](int64_t rows) { return TensorView(base, DType::kI32, {rows}); };
  return {.header = static_cast<const StepHeader*>(base),
          .token_ids = int32(c.rows),
          .positions = int32(c.rows),
          .row_seq = int32(c.rows),
          .kv_slots = int32(c.rows),
          .q_indptr = int32(c.seqs + 1),
          .kv_page_indptr = int32(c.seqs + 1),
          .kv_page_indices = int32(1),
          .kv_last_page_len = int32(c.seqs),
          .last_token = int32(c.seqs),
          .sample_rows = int32(c.sample_chunk),
          .sampling = TensorView(base, DType::kU8, {c.sample_chunk, sizeof(SamplingRow)}),
          .history = int32(1),
          .bias_ids = int32(1),
          .bias_values = TensorView(base, DType::kF32, {1}),
          .masks = TensorView(base, DType::kI32, {1, 1})};
}

void add_result_shapes(void* base, int64_t rows,
                       std::map<std::string, TensorView, std::less<>>& external) {
  external["sampled_ids"] = TensorView(base, DType::kI32, {rows, 1});
  external["sampled_logprobs"] = TensorView(base, DType::kF32, {rows, 1});
  external["sampled_ranks"] = TensorView(base, DType::kI32, {rows, 1});
  external["top_ids"] = TensorView(base, DType::kI32, {rows, kMaxTopLogprobs});
  external["top_logprobs"] = TensorView(base, DType::kF32, {rows, kMaxTopLogprobs});
}

/// Everything of the right shape at `base`, for plans that are only measured.
BindEnvironment measured_environment(Backend& backend, const ModelConfig& model,
                                     const WeightSource& weights, DType act, int tp_size,
                                     const StepCapacity& capacity, void* base) {
  const KvLayout layout = backend.kv_layout({model.kv_heads(tp_size), model.head_dim, act});
  const KvCacheView kv{.k = base,
                       .v = base,
                       .dtype = act,
                       .num_pages = 1,
                       .page_size = layout.page_size,
                       .page_stride = layout.page_stride,
                       .slot_stride = layout.slot_stride,
                       .head_stride = layout.head_stride};
  BindEnvironment env;
  env.backend = &backend;
  env.weights = &weights;
  for (const char* symbol : {"residual", "delta"})
    env.external[symbol] = TensorView(base, act, {capacity.rows, model.hidden_size});
  add_result_shapes(base, capacity.sample_chunk, env.external);
  env.kv.assign(static_cast<size_t>(model.num_hidden_layers), kv);
  env.step = shapes_of_inputs(base, capacity);
  return env;
}

}  // namespace

StepPlans::StepPlans(Backend& backend, const ModelConfig& model, const WeightStore& weights,
                     DType act, int tp_size, const std::string& pipeline,
                     const StepCapacity& capacity)
    : backend_(backend),
      weights_(weights),
      capacity_(capacity),
      num_sms_(backend.device().num_sms),
      forward_graph_(build_forward_graph(model, tp_size, act)),
      sample_graph_(build_sample_graph(model, tp_size, act)),
      forward_spec_(load_spec(pipeline, forward_graph_)),
      sample_spec_(sequential_spec(sample_graph_)) {
  const int64_t bytes = capacity.rows * model.hidden_size * dtype_size(act);
  residual_ = allocate_for(backend, bytes, "the residual stream", kRemedy);
  delta_ = allocate_for(backend, bytes, "the residual stream", kRemedy);
  external_["residual"] = residual_.view(act, {capacity.rows, model.hidden_size});
  external_["delta"] = delta_.view(act, {capacity.rows, model.hidden_size});
  arena_ = allocate_for(backend,
                        measure_arena(measured_environment(backend, model, weights, act, tp_size,
                                                           capacity, residual_.data())),
                        "a step's scratch memory", kRemedy);
}

int64_t StepPlans::estimate_bytes(Backend& backend, const ModelConfig& model,
                                  const WeightSource& weights, DType act, int tp_size,
                                  const std::string& pipeline, const StepCapacity& capacity) {
  const Buffer base = allocate_host(1);  // only its address is used
  BindEnvironment env =
      measured_environment(backend, model, weights, act, tp_size, capacity, base.data());
  const OpGraph forward = build_forward_graph(model, tp_size, act);
  const OpGraph sample = build_sample_graph(model, tp_size, act);
  env.rows = capacity.rows;
  const int64_t forward_bytes = lower(forward, load_spec(pipeline, forward), env).arena_bytes;
  env.rows = capacity.sample_chunk;
  const int64_t sample_bytes = lower(sample, sequential_spec(sample), env).arena_bytes;
  return std::max(forward_bytes, sample_bytes) +
         2 * capacity.rows * model.hidden_size * dtype_size(act);
}

/// Bytes that the plan of every bucket fits in. They share one arena, since steps run one by one.
/// All are asked: where cuts fall depends on the bucket, so a smaller one may need more workspace.
int64_t StepPlans::measure_arena(BindEnvironment env) const {
  int64_t bytes = 0;
  for (const int64_t rows : row_buckets(capacity_.rows)) {
    env.rows = rows;
    bytes = std::max(bytes, lower(forward_graph_, forward_spec_, env).arena_bytes);
  }
  for (const int64_t rows : row_buckets(capacity_.sample_chunk)) {
    env.rows = rows;
    bytes = std::max(bytes, lower(sample_graph_, sample_spec_, env).arena_bytes);
  }
  return bytes;
}

BindEnvironment StepPlans::environment(int64_t rows) const {
  BindEnvironment env;
  env.rows = rows;
  env.backend = &backend_;
  env.weights = &weights_;
  env.external = external_;
  env.kv = kv_;
  if (arena_.size() > 0) env.arena = arena_.view(DType::kU8, {arena_.size()});
  return env;
}

void StepPlans::bind(const StepArrays& arrays, const ResultArrays& results,
                     std::vector<KvCacheView> kv, Executor* capture) {
  arrays_ = &arrays;
  results_ = &results;
  kv_ = std::move(kv);
  capture_ = capture;
}

PreparedPlan StepPlans::prepare(Plan plan, const OpGraph& graph) const {
  const std::vector<std::string> problems = verify(plan, graph, num_sms_);
  if (!problems.empty()) throw ConfigError("pipeline", plan.name + ": " + problems.front());
  PreparedPlan prepared{.plan = std::move(plan), .ops = &graph};
  if (capture_ != nullptr) prepared.graph = capture_->capture(prepared.plan);
  return prepared;
}

const PreparedPlan& StepPlans::forward(int64_t bucket, bool decode_only) {
  const std::pair key(bucket, decode_only);
  const auto found = forward_plans_.find(key);
  if (found != forward_plans_.end()) return found->second;
  NANO_CHECK(arrays_ != nullptr, "no memory was bound");
  BindEnvironment env = environment(bucket);
  env.step = arrays_->forward_inputs();
  Plan plan = lower(forward_graph_, forward_spec_, env);
  plan.decode_only = decode_only;
  return forward_plans_.emplace(key, prepare(std::move(plan), forward_graph_)).first->second;
}

const PreparedPlan& StepPlans::sample(int64_t chunk, int64_t bucket) {
  const std::pair key(chunk, bucket);
  const auto found = sample_plans_.find(key);
  if (found != sample_plans_.end()) return found->second;
  NANO_CHECK(arrays_ != nullptr, "no memory was bound");
  BindEnvironment env = environment(bucket);
  env.step = arrays_->sample_inputs(chunk);
  results_->bind(env.external, chunk * capacity_.sample_chunk, bucket);
  PreparedPlan plan = prepare(lower(sample_graph_, sample_spec_, env), sample_graph_);
  return sample_plans_.emplace(key, std::move(plan)).first->second;
}

void StepPlans::warm_up() {
  for (const int64_t rows : row_buckets(capacity_.rows)) (void)forward(rows, false);
  // A sequence decodes one row at a time.
  for (const int64_t rows : row_buckets(std::min(capacity_.rows, capacity_.seqs)))
    (void)forward(rows, true);
  for (int64_t chunk = 0; chunk < capacity_.sample_chunks; ++chunk) {
    for (const int64_t rows : row_buckets(capacity_.sample_chunk)) (void)sample(chunk, rows);
  }
}

}  // namespace nanoflow
