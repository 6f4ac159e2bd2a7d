#include "compare.h"

#include <cmath>
#include <cstring>

#include <fmt/format.h>

namespace nanoflow::testing_ops {
namespace {

/// A value that no op computes: large, finite, and with all bytes different.
void poison(HostTensor& tensor) {
  for (size_t i = 0; i < tensor.bytes.size(); ++i)
    tensor.bytes[i] = static_cast<std::byte>(i % 2 == 0 ? 0x35 : 0x5a);
}

template <typename T>
T element(const HostTensor& t, int64_t index) {
  T value;
  std::memcpy(static_cast<void*>(&value), t.bytes.data() + index * static_cast<int64_t>(sizeof(T)),
              sizeof(T));
  return value;
}

template <typename T>
void put(HostTensor& t, int64_t index, T value) {
  std::memcpy(t.bytes.data() + index * static_cast<int64_t>(sizeof(T)),
              static_cast<const void*>(&value), sizeof(T));
}

bool same_bits(const HostTensor& a, const HostTensor& b, int64_t index) {
  const int64_t size = dtype_size(a.dtype);
  return std::memcmp(a.bytes.data() + index * size, b.bytes.data() + index * size,
                     static_cast<size_t>(size)) == 0;
}

}  // namespace

HostTensor::HostTensor(DType dtype_in, int64_t rows_in, int64_t cols_in, int64_t gap)
    : dtype(dtype_in), rows(rows_in), cols(cols_in), stride(cols_in + gap) {
  bytes.resize(static_cast<size_t>(total_elements() * dtype_size(dtype)));
  poison(*this);
}

double HostTensor::get(int64_t row, int64_t col) const {
  const int64_t i = element_index(row, col);
  switch (dtype) {
    case DType::kF32: return static_cast<double>(element<float>(*this, i));
    case DType::kBF16: return static_cast<double>(static_cast<float>(element<BFloat16>(*this, i)));
    case DType::kF16: return static_cast<double>(static_cast<float>(element<Float16>(*this, i)));
    case DType::kI32: return element<int32_t>(*this, i);
    case DType::kU8: return element<uint8_t>(*this, i);
    default: NANO_CHECK(false, "host tensor of {}", dtype_name(dtype));
  }
  return 0;
}

void HostTensor::set(int64_t row, int64_t col, double value) {
  const int64_t i = element_index(row, col);
  switch (dtype) {
    case DType::kF32: return put(*this, i, static_cast<float>(value));
    case DType::kBF16: return put(*this, i, BFloat16(static_cast<float>(value)));
    case DType::kF16: return put(*this, i, Float16(static_cast<float>(value)));
    case DType::kI32: return put(*this, i, static_cast<int32_t>(value));
    case DType::kU8: return put(*this, i, static_cast<uint8_t>(value));
    default: NANO_CHECK(false, "host tensor of {}", dtype_name(dtype));
  }
}

std::vector<std::string> compare(const HostTensor& got, const HostTensor& want,
                                 const HostTensor& before, int64_t begin, int64_t end,
                                 const ElementBound& bound) {
  constexpr size_t kMostFailures = 5;
  std::vector<std::string> failures;
  for (int64_t i = 0; i < got.total_elements() && failures.size() < kMostFailures; ++i) {
    const int64_t row = i / got.stride - HostTensor::kGuardRows, col = i % got.stride;
    const bool inside = row >= begin && row < end && row >= 0 && row < got.rows && col < got.cols;
    if (!inside) {
      if (!same_bits(got, before, i))
        failures.push_back(fmt::format("row {} col {} was written", row, col));
      continue;
    }
    const double g = got.get(row, col), w = want.get(row, col);
    if (std::isnan(g) && std::isnan(w)) continue;
    if (g == w) continue;  // also equal infinities
    const double limit = bound(row, col, w);
    if (!(std::abs(g - w) <= limit))
      failures.push_back(
          fmt::format("row {} col {}: got {}, want {}, bound {}", row, col, g, w, limit));
  }
  return failures;
}

}  // namespace nanoflow::testing_ops
