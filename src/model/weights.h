// WeightStore: this rank's shard of a model's weights, by name, in its backend's layout.
// Names per layer: attn_norm, qkv, qkv_bias, q_norm, k_norm, o, o_bias, ffn_norm, and dense
// gate_up, gate_up_bias, down, down_bias, or sparse router, experts_gate_up, experts_down.
// Global names: embed, final_norm, lm_head, cos_sin. Where the bytes come from is source.h's.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "model/config.h"
#include "model/source.h"
#include "ops/backend.h"
#include "ops/graph.h"

namespace nanoflow {

/// Called on the loading thread before the first weight and after each, with bytes of the device
/// dtype.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

struct LoadOptions {
  DType dtype = DType::kBF16;  ///< of matrices, norms and biases on the device
  int tp_rank = 0;
  int tp_size = 1;
  int64_t max_positions = 0;  ///< rows of the rope table; 0: max_position_embeddings
  int num_threads = 1;        ///< converting and copying, by rows
  LoadProgress progress;      ///< may be empty
};

/// Throws FormatError unless `source` has every tensor that `config` asks for, in its shape and in
/// a type that can be read: what WeightStore checks before it reads the first weight. Reads none.
void check_checkpoint(const ModelConfig& config, const CheckpointSource& source, int tp_size = 1);

/// A rank's weights as they will be, row-major, before anything is loaded: for plans that are only
/// measured. Their data point nowhere.
class UnloadedWeights final : public WeightSource {
 public:
  /// As WeightStore loads them with `options`.
  UnloadedWeights(const ModelConfig& config, const LoadOptions& options);

  [[nodiscard]] PackedWeight weight(std::string_view name, int layer) const override;
  /// With the rope table.
  [[nodiscard]] int64_t bytes() const { return bytes_; }

 private:
  Buffer base_;
  std::map<std::pair<int, std::string>, PackedWeight, std::less<>> by_name_;
  int64_t bytes_ = 0;
};

/// Owns the prepared weights of one rank. Loading streams: on the host there is one piece of one
/// matrix at a time (see Backend::load_weight), and the source's pages are dropped behind it.
class WeightStore final : public WeightSource {
 public:
  /// Loads everything that build_forward_graph and build_sample_graph of `config` bind.
  /// Matrices are cut for `options.tp_rank`: qkv, gate_up, lm_head by output rows (qkv per head;
  /// lm_head's last rows are zero where vocab_size does not divide), o and down by input columns;
  /// o_bias and down_bias are the checkpoint's on rank 0 and zero elsewhere, since ranks are
  /// summed. Throws FormatError naming the tensor with expected and found shape, OutOfMemory,
  /// IoError.
  WeightStore(const ModelConfig& config, const CheckpointSource& source, Backend& backend,
              const LoadOptions& options);

  /// The layer's weight of this name, else the global one (layer -1). Aborts on unknown names.
  [[nodiscard]] PackedWeight weight(std::string_view name, int layer) const override;
  [[nodiscard]] bool contains(std::string_view name, int layer) const;
  /// Bytes on the device, shared ones once, per name over all layers: for reports.
  [[nodiscard]] const std::map<std::string, int64_t>& bytes_by_name() const {
    return bytes_by_name_;
  }
  [[nodiscard]] int64_t bytes() const;

 private:
  friend class WeightLoader;

  std::map<std::pair<int, std::string>, OwnedWeight, std::less<>> owned_;
  std::map<std::pair<int, std::string>, PackedWeight, std::less<>> by_name_;
  std::map<std::string, int64_t> bytes_by_name_;
};

}  // namespace nanoflow
