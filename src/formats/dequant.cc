#include "formats/dequant.h"

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "tensor/dtype.h"

namespace nanoflow {
namespace {

float half_at(const uint8_t* p) {
  uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return Float16::to_float(bits);
}

uint32_t word_at(const uint8_t* p) {
  uint32_t word = 0;
  std::memcpy(&word, p, sizeof(word));
  return word;
}

// 32-element blocks: low nibbles are elements 0-15, high nibbles 16-31.

void q4_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[2 + i];
    out[i] = d * static_cast<float>((byte & 15) - 8);
    out[i + 16] = d * static_cast<float>((byte >> 4) - 8);
  }
}

void q4_1(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[4 + i];
    out[i] = d * static_cast<float>(byte & 15) + m;
    out[i + 16] = d * static_cast<float>(byte >> 4) + m;
  }
}

// Fifth bits: bit i of a 32-bit word belongs to element i.
int fifth_bit(uint32_t high, int element) {
  return static_cast<int>((high >> element) & 1u) << 4;
}

void q5_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const uint32_t high = word_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[6 + i];
    out[i] = d * static_cast<float>(((byte & 15) | fifth_bit(high, i)) - 16);
    out[i + 16] = d * static_cast<float>(((byte >> 4) | fifth_bit(high, i + 16)) - 16);
  }
}

void q5_1(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const float m = half_at(block + 2);
  const uint32_t high = word_at(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int byte = block[8 + i];
    out[i] = d * static_cast<float>((byte & 15) | fifth_bit(high, i)) + m;
    out[i + 16] = d * static_cast<float>((byte >> 4) | fifth_bit(high, i + 16)) + m;
  }
}

void q8_0(const uint8_t* block, float* out) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// 256-element "K" blocks: eight groups of 32 with 6-bit scales and minima packed into 12 bytes.

struct ScaleMin {
  int scale;
  int min;
};

ScaleMin scale_min(const uint8_t* packed, int64_t group) {
  if (group < 4) return {packed[group] & 63, packed[group + 4] & 63};
  return {(packed[group + 4] & 15) | ((packed[group - 4] >> 6) << 4),
          (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4)};
}

void q4_k(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const uint8_t* scales = block + 4;
  for (int64_t group = 0; group < 8; ++group) {
    const ScaleMin s = scale_min(scales, group);
    const float scale = d * static_cast<float>(s.scale);
    const float min = dmin * static_cast<float>(s.min);
    const uint8_t* q = block + 16 + group / 2 * 32;
    const int64_t shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i)
      out[group * 32 + i] = scale * static_cast<float>((q[i] >> shift) & 15) - min;
  }
}

void q5_k(const uint8_t* block, float* out) {
  const float d = half_at(block);
  const float dmin = half_at(block + 2);
  const uint8_t* scales = block + 4;
  const uint8_t* high = block + 16;
  for (int64_t group = 0; group < 8; ++group) {
    const ScaleMin s = scale_min(scales, group);
    const float scale = d * static_cast<float>(s.scale);
    const float min = dmin * static_cast<float>(s.min);
    const uint8_t* q = block + 48 + group / 2 * 32;
    const int64_t shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = ((q[i] >> shift) & 15) | (((high[i] >> group) & 1) << 4);
      out[group * 32 + i] = scale * static_cast<float>(value) - min;
    }
  }
}

void q6_k(const uint8_t* block, float* out) {
  const float d = half_at(block + 208);
  for (int64_t half = 0; half < 2; ++half) {
    const uint8_t* low = block + half * 64;
    const uint8_t* high = block + 128 + half * 32;
    const auto* scales = reinterpret_cast<const int8_t*>(block + 192 + half * 8);
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      const uint8_t* q = low + quarter % 2 * 32;
      const int64_t low_shift = quarter / 2 * 4;
      for (int i = 0; i < 32; ++i) {
        const int value = ((q[i] >> low_shift) & 15) | (((high[i] >> (2 * quarter)) & 3) << 4);
        const int8_t step = scales[quarter * 2 + i / 16];
        const float scale = d * static_cast<float>(step);
        out[half * 128 + quarter * 32 + i] = scale * static_cast<float>(value - 32);
      }
    }
  }
}

template <auto kBlock>
void each_block(const uint8_t* bytes, std::span<float> out, const GgmlBlock& block) {
  for (size_t i = 0; i < out.size(); i += static_cast<size_t>(block.elements)) {
    kBlock(bytes, out.data() + i);
    bytes += block.bytes;
  }
}

template <typename T>
void each_element(const uint8_t* bytes, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const std::optional<GgmlBlock> block = ggml_block(type);
  NANO_CHECK(block.has_value(), "{} cannot be read", ggml_type_name(type));
  const auto elements = static_cast<int64_t>(out.size());
  NANO_CHECK(elements % block->elements == 0 &&
                 elements / block->elements * block->bytes == static_cast<int64_t>(bytes.size()),
             "{} elements of {} in {} bytes", elements, ggml_type_name(type), bytes.size());
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
  switch (type) {
    case GgmlType::kF32:
      if (!out.empty()) std::memcpy(out.data(), p, bytes.size());
      return;
    case GgmlType::kF16: return each_element<Float16>(p, out);
    case GgmlType::kBF16: return each_element<BFloat16>(p, out);
    case GgmlType::kQ4_0: return each_block<q4_0>(p, out, *block);
    case GgmlType::kQ4_1: return each_block<q4_1>(p, out, *block);
    case GgmlType::kQ5_0: return each_block<q5_0>(p, out, *block);
    case GgmlType::kQ5_1: return each_block<q5_1>(p, out, *block);
    case GgmlType::kQ8_0: return each_block<q8_0>(p, out, *block);
    case GgmlType::kQ4_K: return each_block<q4_k>(p, out, *block);
    case GgmlType::kQ5_K: return each_block<q5_k>(p, out, *block);
    case GgmlType::kQ6_K: return each_block<q6_k>(p, out, *block);
  }
}

}  // namespace nanoflow
