// CheckpointSource: where weights come from (safetensors, GGUF, or made up), under the names and
// in the row order of Hugging Face checkpoints. It knows nothing of ranks or fusing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "tensor/tensor_view.h"

namespace nanoflow {

/// Read access to named tensors. All methods are const and safe to call from several threads.
class CheckpointSource {
 public:
  virtual ~CheckpointSource() = default;

  /// Where this reads from, for messages: a path, or "dummy weights".
  [[nodiscard]] virtual std::string description() const = 0;
  [[nodiscard]] virtual bool contains(const std::string& name) const = 0;
  /// Dimensions, outermost first. Throws FormatError when there is no such tensor.
  [[nodiscard]] virtual std::vector<int64_t> shape(const std::string& name) const = 0;
  /// Copies rows [row_begin, row_begin + out.rows()) and columns [col_begin, col_begin +
  /// out.cols()) of a tensor seen as [dim 0, other dims] (a vector: [1, n]) into host memory,
  /// converted to out's dtype (float32, bfloat16 or float16). The range must lie inside shape(name)
  /// (NANO_CHECKed). Throws FormatError when the stored type cannot be read.
  virtual void read(const std::string& name, int64_t row_begin, int64_t col_begin,
                    const TensorView& out) const = 0;
  /// Lets the system reclaim the memory behind what was read of a tensor; it can still be read.
  virtual void drop(const std::string& name) const = 0;
};

/// Weights of a Hugging Face folder (model.safetensors, or shards with their index).
/// Throws IoError, FormatError.
std::unique_ptr<CheckpointSource> open_safetensors_source(const std::filesystem::path& folder);

/// Weights of a .gguf file, dequantised as they are read; q and k rows of "llama" files are put
/// back into Hugging Face order. Throws IoError, FormatError.
std::unique_ptr<CheckpointSource> open_gguf_source(const std::filesystem::path& file,
                                                   const ModelConfig& config);

/// How make_dummy_source draws values. The defaults are what `--load-format dummy` serves with.
struct DummyOptions {
  uint64_t seed = 0;
  double matrix_deviation = 0.02;  ///< as transformers' initializer_range
  double norm_deviation = 0;       ///< norms are 1 plus this
  double bias_deviation = 0;
};

/// Made-up weights: normal values with all mantissa bits in use, as timings and power need.
/// Every element depends on (seed, tensor name, row, column) alone, so a shard is the same at any
/// tp_size.
std::unique_ptr<CheckpointSource> make_dummy_source(const ModelConfig& config,
                                                    const DummyOptions& options = {});

/// open_gguf_source for a .gguf file, open_safetensors_source for a folder.
std::unique_ptr<CheckpointSource> open_checkpoint(const std::filesystem::path& model,
                                                  const ModelConfig& config);

}  // namespace nanoflow
