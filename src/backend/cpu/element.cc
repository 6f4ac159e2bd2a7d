#include "backend/cpu/element.h"

#include "backend/cpu/simd.h"

namespace nanoflow::cpu {

void load_floats(const void* data, DType dtype, int64_t count, float* out) {
  with_element_type(dtype, [&]<typename T>(T) {
    const T* in = static_cast<const T*>(data);
    int64_t i = 0;
    for (; i + kSimd <= count; i += kSimd) store(out + i, load(in + i));
    for (; i < count; ++i) out[i] = static_cast<float>(in[i]);
  });
}

void store_floats(void* data, DType dtype, int64_t count, const float* in) {
  with_element_type(dtype, [&]<typename T>(T) {
    T* out = static_cast<T*>(data);
    int64_t i = 0;
    for (; i + kSimd <= count; i += kSimd) store(out + i, load(in + i));
    for (; i < count; ++i) out[i] = T(in[i]);
  });
}

std::vector<float> load_vector(const TensorView& v) {
  std::vector<float> out(static_cast<size_t>(v.rows()));
  load_floats(v.data(), v.dtype(), v.rows(), out.data());
  return out;
}

float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t kPartials = 16;
  float partial[kPartials] = {};
  int64_t i = 0;
  for (; i + kPartials <= n; i += kPartials)
    for (int64_t l = 0; l < kPartials; ++l) partial[l] += a[i + l] * b[i + l];
  for (int64_t l = 0; i + l < n; ++l) partial[l] += a[i + l] * b[i + l];
  for (int64_t step = kPartials / 2; step > 0; step /= 2)
    for (int64_t l = 0; l < step; ++l) partial[l] += partial[l + step];
  return partial[0];
}

}  // namespace nanoflow::cpu
