// SequentialModel: the plainest way to run a model's graphs. It walks the nodes in order on one
// rank's backend, layer by layer; no plan, no lanes, no events. What the pipeline does must equal
// it: with `pipeline` set, the forward graph runs as a verified plan instead.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "model/config.h"
#include "model/graph.h"
#include "model/source.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace nanoflow {

/// Consecutive tokens of one sequence, `start` of which are already in its cache.
struct ModelChunk {
  int seq = 0;
  int32_t start = 0;
  std::vector<int32_t> tokens;
};

struct SequentialOptions {
  DType act = DType::kF32;
  int tp_rank = 0;
  int tp_size = 1;
  Communicator* comm = nullptr;
  bool reference_kernels = true;
  int threads = 1;
  int max_seqs = 4;
  int max_length = 128;       ///< tokens per sequence
  int padding = 0;            ///< rows behind the live ones of every step
  std::vector<int64_t> cuts;  ///< every op is run in pieces cut at these rows
  std::string pipeline;       ///< a spec's name: run the forward graph through it
  bool cuda = false;          ///< on the first GPU; the kernels' options above do not apply
};

class SequentialModel {
 public:
  SequentialModel(const ModelConfig& config, const CheckpointSource& source,
                  SequentialOptions options);

  /// One step over `decodes` (one row each) and then `prefills`. Logits of every row, float32
  /// [rows, vocab_size].
  std::vector<float> step(const std::vector<ModelChunk>& decodes,
                          const std::vector<ModelChunk>& prefills);
  [[nodiscard]] const ModelConfig& config() const { return config_; }

 private:
  class Memory;
  class StepBinder;

  /// The value that memory holds until an op writes it: NaN in every float dtype.
  void poison(const Buffer& buffer);
  Buffer to_device(const void* data, int64_t bytes);
  [[nodiscard]] std::vector<float> read(const TensorView& logits, int64_t rows);
  void fill_step(const std::vector<ModelChunk>& decodes, const std::vector<ModelChunk>& prefills);
  void append_chunk(const ModelChunk& chunk);
  void walk(const OpGraph& graph, int64_t rows, const std::string& stop_before);
  void run_node(const OpGraph& graph, const OpNode& node, int layer, int64_t rows);
  void run_plan(const OpGraph& graph, int64_t rows);
  TensorView symbol_memory(const Symbol& symbol, int64_t rows);
  [[nodiscard]] KvCacheView cache(int layer) const;
  [[nodiscard]] int32_t page_of(int seq, int64_t index) const;

  ModelConfig config_;
  SequentialOptions options_;
  std::unique_ptr<Backend> backend_;
  WeightStore weights_;
  OpGraph forward_;
  OpGraph sample_;
  KvLayout layout_;
  int64_t pages_per_seq_ = 0;
  std::vector<Buffer> caches_;  // K and V per layer
  std::map<std::string, Buffer> memory_;
  // The step's arrays.
  StepHeader header_;
  std::vector<int32_t> token_ids_, positions_, row_seq_, kv_slots_, q_indptr_, kv_page_indptr_,
      kv_page_indices_, kv_last_page_len_, last_token_, sample_rows_;
  StepInputs inputs_;
  std::vector<Buffer> step_memory_;  // of inputs_
};

}  // namespace nanoflow
