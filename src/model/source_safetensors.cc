// Weights of a Hugging Face folder: the tensors are there under their own names, in full.
#include <fmt/format.h>

#include "base/error.h"
#include "formats/safetensors.h"
#include "model/convert.h"
#include "model/source.h"

namespace nanoflow {
namespace {

class SafetensorsSource final : public CheckpointSource {
 public:
  explicit SafetensorsSource(const std::filesystem::path& folder) : files_(folder) {}

  [[nodiscard]] std::string description() const override { return files_.name(); }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return files_.find(name) != nullptr;
  }
  [[nodiscard]] std::vector<int64_t> shape(const std::string& name) const override {
    return require(name).shape;
  }

  void read(const std::string& name, int64_t row_begin, int64_t col_begin,
            const TensorView& out) const override {
    const SafetensorsEntry& entry = require(name);
    const bool is_vector = entry.shape.size() == 1;
    const int64_t rows = is_vector ? 1 : entry.shape[0];
    int64_t cols = is_vector ? entry.shape[0] : 1;
    for (size_t i = 1; i < entry.shape.size(); ++i) cols *= entry.shape[i];
    NANO_CHECK(row_begin >= 0 && row_begin + out.rows() <= rows && col_begin >= 0 &&
                   col_begin + out.cols() <= cols,
               "{} from ({}, {}) of {} [{}, {}]", out.to_string(), row_begin, col_begin, name, rows,
               cols);
    const int64_t element = dtype_size(*entry.dtype);
    const int64_t first_byte = (row_begin * cols + col_begin) * element;
    if (out.dtype() == *entry.dtype && out.cols() * element >= kMinReadBytes)
      return copy_rows(entry, first_byte, cols * element, out);
    for (int64_t row = 0; row < out.rows(); ++row) {
      const std::byte* from = entry.bytes.data() + ((row_begin + row) * cols + col_begin) * element;
      convert_elements(from, *entry.dtype, out.slice_rows(row, row + 1).data(), out.dtype(),
                       out.cols());
    }
  }

  void drop(const std::string& name) const override { files_.drop_pages(require(name)); }

 private:
  /// Less than this in a row is cheaper by way of the mapping than by a call of the system.
  static constexpr int64_t kMinReadBytes = 4096;

  /// Rows that need no conversion, `pitch` bytes apart in the file.
  void copy_rows(const SafetensorsEntry& entry, int64_t first_byte, int64_t pitch,
                 const TensorView& out) const {
    const int64_t row_bytes = out.cols() * dtype_size(out.dtype());
    const bool is_one_block = row_bytes == pitch && out.is_contiguous();
    const int64_t rows = is_one_block ? 1 : out.rows();
    const auto block = static_cast<size_t>(is_one_block ? out.rows() * row_bytes : row_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      auto* to = static_cast<std::byte*>(out.slice_rows(row, row + 1).data());
      files_.read(entry, static_cast<size_t>(first_byte + row * pitch), {to, block});
    }
  }

  [[nodiscard]] const SafetensorsEntry& require(const std::string& name) const {
    const SafetensorsEntry* entry = files_.find(name);
    if (entry == nullptr)
      throw FormatError(files_.name(),
                        "has no tensor " + name + ", which the configuration asks for");
    if (!entry->dtype || !is_weight_dtype(*entry->dtype))
      throw FormatError(files_.name(),
                        fmt::format("tensor {} is stored as {}; F32, F16 and BF16 can be read",
                                    name, entry->stored_dtype));
    if (entry->shape.empty())
      throw FormatError(files_.name(), fmt::format("tensor {} is a scalar", name));
    return *entry;
  }

  SafetensorsSet files_;
};

}  // namespace

std::unique_ptr<CheckpointSource> open_safetensors_source(const std::filesystem::path& folder) {
  return std::make_unique<SafetensorsSource>(folder);
}

std::unique_ptr<CheckpointSource> open_checkpoint(const std::filesystem::path& model,
                                                  const ModelConfig& config) {
  if (model.extension() == ".gguf") return open_gguf_source(model, config);
  return open_safetensors_source(model);
}

}  // namespace nanoflow
