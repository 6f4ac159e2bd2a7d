// StepPlans: the plans of one rank's two graphs, by row bucket, and the memory that they are bound
// to: residual stream and scratch arena. A plan is made, verified, captured and kept when its
// bucket is first needed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/result_arrays.h"
#include "engine/step_arrays.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/graph.h"
#include "pipeline/executor.h"
#include "pipeline/lower.h"
#include "pipeline/plan.h"
#include "pipeline/spec.h"

namespace nanoflow {

/// A plan and, when plans are captured, its graph on the backend.
struct PreparedPlan {
  Plan plan;
  const OpGraph* ops = nullptr;  ///< what it was lowered from
  std::optional<GraphId> graph;
};

class StepPlans {
 public:
  /// Builds the graphs, loads the spec `pipeline` and allocates for the largest buckets. `weights`
  /// outlives this. Throws ConfigError (unknown spec, or one that does not fit the model), or
  /// OutOfMemory naming what to lower.
  StepPlans(Backend& backend, const ModelConfig& model, const WeightStore& weights, DType act,
            int tp_size, const std::string& pipeline, const StepCapacity& capacity);

  /// Bytes that a StepPlans of these will take, or slightly fewer: smaller buckets may need more
  /// than the largest one, which alone is asked. Allocates nothing; `weights` need not be loaded.
  /// Throws ConfigError as the constructor does.
  [[nodiscard]] static int64_t estimate_bytes(Backend& backend, const ModelConfig& model,
                                              const WeightSource& weights, DType act, int tp_size,
                                              const std::string& pipeline,
                                              const StepCapacity& capacity);

  /// Where the rest of a step's memory is, and who captures plans (null: nobody); once, before
  /// plans are asked for. All outlive this.
  void bind(const StepArrays& arrays, const ResultArrays& results, std::vector<KvCacheView> kv,
            Executor* capture);

  /// Plan of the forward graph for `bucket` rows; `decode_only`: all rows are decodes.
  const PreparedPlan& forward(int64_t bucket, bool decode_only);
  /// Plan of the sample graph for `bucket` rows of chunk `chunk`.
  const PreparedPlan& sample(int64_t chunk, int64_t bucket);
  /// Makes the plans of every bucket.
  void warm_up();

  [[nodiscard]] int64_t bytes() const { return arena_.size() + 2 * residual_.size(); }

 private:
  [[nodiscard]] BindEnvironment environment(int64_t rows) const;
  [[nodiscard]] int64_t measure_arena(BindEnvironment env) const;
  [[nodiscard]] PreparedPlan prepare(Plan plan, const OpGraph& graph) const;

  Backend& backend_;
  const WeightStore& weights_;
  StepCapacity capacity_;
  int num_sms_;
  OpGraph forward_graph_;
  OpGraph sample_graph_;
  PipelineSpec forward_spec_;
  PipelineSpec sample_spec_;
  Buffer residual_;
  Buffer delta_;
  Buffer arena_;
  std::map<std::string, TensorView, std::less<>> external_;
  const StepArrays* arrays_ = nullptr;
  const ResultArrays* results_ = nullptr;
  Executor* capture_ = nullptr;
  std::vector<KvCacheView> kv_;
  std::map<std::pair<int64_t, bool>, PreparedPlan> forward_plans_;  // by bucket and decode_only
  std::map<std::pair<int64_t, int64_t>, PreparedPlan> sample_plans_;
};

}  // namespace nanoflow
