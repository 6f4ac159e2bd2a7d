// Made-up weights from a counter-based generator: element (row, column) of a tensor is a function
// of the seed, the tensor's name and the two indices alone. The tests' golden models are made from
// the same function, written in Python (tools/make_tiny_model.py); changing one means changing
// both.
#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"
#include "base/random.h"
#include "model/convert.h"
#include "model/source.h"
#include "model/weight_plan.h"

namespace nanoflow {
namespace {

constexpr uint64_t fnv1a(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

constexpr uint64_t mix64(uint64_t x) {
  return mix_bits(x + kGoldenGamma);
}

/// The finaliser of MurmurHash3 (Appleby, public domain).
constexpr uint32_t mix32(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  return x ^ (x >> 16);
}

// A sum of four 16-bit uniforms, centred, in units of 1/256: normal to within 0.3 of kurtosis, in
// integers, so that every machine and NumPy get the same bits.
constexpr int32_t kCentre = (2 * 65535) * 256 + 128;
constexpr double kUnitDeviation = 37837.22746 * 256;  // sqrt(4 (65536^2 - 1) / 12), times 256

/// Element `col` of a row whose key is (low, high), times 1 / scale.
inline float draw(uint32_t col, uint32_t low, uint32_t high) {
  const uint32_t a = mix32(col * 0x9e3779b9u + low);
  const uint32_t b = mix32(col * 0x85ebca77u + high);
  const uint32_t sum = (a & 0xffffu) + (a >> 16) + (b & 0xffffu) + (b >> 16);
  const uint32_t fine = sum * 256u + (((a ^ b) >> 12) & 0xffu);
  return static_cast<float>(static_cast<int32_t>(fine) - kCentre);
}

/// out[i] = element (row, col_begin + i) of the tensor with `key`, times scale.
void fill_row(uint64_t key, int64_t row, int64_t col_begin, float scale, float* out,
              int64_t count) {
  const uint64_t row_key = mix64(key + static_cast<uint64_t>(row));
  const auto low = static_cast<uint32_t>(row_key);
  const auto high = static_cast<uint32_t>(row_key >> 32);
  const auto first = static_cast<uint32_t>(col_begin);
  // A constant trip count lets compilers use SIMD at -O2.
  constexpr int64_t kStep = 32;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep)
    for (uint32_t j = 0; j < kStep; ++j)
      out[i + j] = draw(first + static_cast<uint32_t>(i) + j, low, high) * scale;
  for (; i < count; ++i) out[i] = draw(first + static_cast<uint32_t>(i), low, high) * scale;
}

class DummySource final : public CheckpointSource {
 public:
  DummySource(const ModelConfig& config, const DummyOptions& options) : options_(options) {
    for (const WeightSpec& spec : plan_weights(config, 0, 1))
      for (const WeightPiece& piece : spec.pieces) shapes_[piece.tensor] = piece.shape;
  }

  [[nodiscard]] std::string description() const override { return "dummy weights"; }
  [[nodiscard]] bool contains(const std::string& name) const override {
    return shapes_.contains(name);
  }
  [[nodiscard]] std::vector<int64_t> shape(const std::string& name) const override {
    const auto found = shapes_.find(name);
    if (found == shapes_.end()) throw FormatError(description(), "has no tensor " + name);
    return found->second;
  }

  void read(const std::string& name, int64_t row_begin, int64_t col_begin,
            const TensorView& out) const override {
    const bool is_norm = name.ends_with("norm.weight");
    const bool is_bias = name.ends_with(".bias");
    const double deviation = is_norm   ? options_.norm_deviation
                             : is_bias ? options_.bias_deviation
                                       : options_.matrix_deviation;
    const auto scale = static_cast<float>(deviation / kUnitDeviation);
    const float mean = is_norm ? 1.0F : 0.0F;
    const uint64_t key = mix64(options_.seed ^ fnv1a(name));
    constexpr int64_t kBlock = 2048;  // 8 KiB of floats stay in the first-level cache
    std::array<float, kBlock> block{};
    for (int64_t row = 0; row < out.rows(); ++row) {
      const TensorView out_row = out.slice_rows(row, row + 1);
      auto* to = static_cast<std::byte*>(out_row.data());
      for (int64_t col = 0; col < out.cols(); col += kBlock) {
        const int64_t count = std::min(kBlock, out.cols() - col);
        fill_row(key, row_begin + row, col_begin + col, scale, block.data(), count);
        if (mean != 0)
          for (int64_t i = 0; i < count; ++i) block[static_cast<size_t>(i)] += mean;
        convert_elements(block.data(), DType::kF32, to + col * dtype_size(out.dtype()), out.dtype(),
                         count);
      }
    }
  }

  void drop(const std::string& /*name*/) const override {}

 private:
  DummyOptions options_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

}  // namespace

std::unique_ptr<CheckpointSource> make_dummy_source(const ModelConfig& config,
                                                    const DummyOptions& options) {
  return std::make_unique<DummySource>(config, options);
}

}  // namespace nanoflow
