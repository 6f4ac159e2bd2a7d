// A backend and an environment for looking at plans of real graphs: nothing is bound to memory and
// nothing runs.
#pragma once

#include "base/check.h"
#include "model/graph.h"
#include "ops/backend.h"
#include "pipeline/lower.h"

namespace nanoflow {

class PlanningBackend final : public Backend {
 public:
  [[nodiscard]] DeviceInfo device() const override { return {.name = "planning", .num_sms = 132}; }
  [[nodiscard]] int max_lanes() const override { return 4; }
  Buffer allocate(int64_t) override { return {}; }
  Buffer allocate_pinned(int64_t) override { return {}; }
  [[nodiscard]] bool supports(const OpArgs&) const override { return true; }
  [[nodiscard]] int64_t workspace_bytes(const OpArgs& args, const LaunchContext&) const override {
    return static_cast<int64_t>(args.index()) * 1000;
  }
  OwnedWeight prepare_weight(const TensorView&, WeightUse, int64_t) override { return {}; }
  [[nodiscard]] KvLayout kv_layout(const KvShape&) const override { return {}; }
  void launch(const OpArgs&, const LaunchContext&) override { NANO_CHECK(false); }
  void copy(const TensorView&, const TensorView&, LaneId) override { NANO_CHECK(false); }
  EventId create_event() override { return 0; }
  void record(LaneId, EventId) override {}
  void wait(LaneId, EventId) override {}
  void synchronize_event(EventId) override {}
  StampId create_stamp() override { return 0; }
  void stamp(LaneId, StampId) override {}
  int64_t elapsed_ns(StampId, StampId) override { return 0; }
  void begin_capture() override {}
  GraphId end_capture() override { return 0; }
  void replay(GraphId) override {}
  void synchronize() override {}
};

/// A plan of `graph` for a bucket of `rows`, without memory.
class Planner {
 public:
  [[nodiscard]] Plan plan(const OpGraph& graph, const PipelineSpec& spec, int64_t rows) {
    BindEnvironment env{.rows = rows, .backend = &backend_, .weights = &weights_};
    for (const Symbol& symbol : graph.symbols)
      if (symbol.space == SymbolSpace::kExternal)
        env.external[symbol.name] = {
            nullptr, symbol.dtype, {rows * symbol.rows_per_token, symbol.cols}};
    env.kv.resize(static_cast<size_t>(graph.num_layers));
    for (TensorView* view : {&env.step.token_ids, &env.step.positions, &env.step.row_seq,
                             &env.step.kv_slots, &env.step.sample_rows, &env.step.last_token})
      *view = {nullptr, DType::kI32, {rows}};
    return lower(graph, spec, env);
  }

 private:
  class NoWeights final : public WeightSource {
    [[nodiscard]] PackedWeight weight(std::string_view, int) const override { return {}; }
  };

  PlanningBackend backend_;
  NoWeights weights_;
};

/// Llama-3-8B's numbers, with another architecture's parts where it has them.
inline ModelConfig large_config(const std::string& architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 128256;
  config.max_position_embeddings = 8192;
  config.rms_norm_eps = 1e-5;
  config.rope_theta = 500000;
  if (architecture == "MixtralForCausalLM") {
    config.num_local_experts = 8;
    config.num_experts_per_tok = 2;
  }
  return config;
}

}  // namespace nanoflow
