// Per row of qkv: norm of q and k heads, rotation in place, and the append of k and v to the cache,
// in one pass. A group of lanes owns a head; its lanes hold both halves of the pairs they rotate.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/dependent.cuh"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kMaxThreads = 512;

template <typename T>
struct RopeParams {
  T* qkv;
  int64_t stride;
  int q_heads, kv_heads, dim;
  int group;  ///< lanes per head, a power of two up to 32
  const int32_t *positions, *slots;
  const float* cos_sin;
  int64_t cos_sin_stride;
  const T *q_norm, *k_norm;  ///< or null
  float eps;
  T *k_cache, *v_cache;
  int64_t page_stride, slot_stride, head_stride;
  int page_size;
  LiveRows live;
};

/// rsqrt(mean of squares + eps) of one head, in all lanes of its group.
template <typename T, int N>
__device__ __forceinline__ float head_scale(const RopeParams<T>& p, const T* head, int lane,
                                            bool active) {
  float sum = 0;
  if (active)
    for (int i = lane * N; i < p.dim / 2; i += p.group * N) {
      const Vec<T, N> a = load_vec<T, N>(head + i), b = load_vec<T, N>(head + p.dim / 2 + i);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sum += to_float(a.at[j]) * to_float(a.at[j]);
        sum += to_float(b.at[j]) * to_float(b.at[j]);
      }
    }
  for (int step = p.group / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return rsqrtf(sum / static_cast<float>(p.dim) + p.eps);
}

/// Normalises (weight not null) and rotates `N` pairs; a and b are the halves of the head.
template <typename T, int N>
__device__ __forceinline__ void rotate(Vec<T, N>& a, Vec<T, N>& b, const float* cos_sin, int half,
                                       int i, const T* weight, float scale) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    float x = to_float(a.at[j]), y = to_float(b.at[j]);
    if (weight != nullptr) {
      x = x * scale * to_float(weight[i + j]);
      y = y * scale * to_float(weight[half + i + j]);
    }
    const float c = cos_sin[i + j], s = cos_sin[half + i + j];
    a.at[j] = from_float<T>(x * c - y * s);
    b.at[j] = from_float<T>(y * c + x * s);
  }
}

template <typename T, int N>
__device__ __forceinline__ void process_head(const RopeParams<T>& p, int64_t row, int h, int lane,
                                             bool active) {
  const int rotated = p.q_heads + p.kv_heads, half = p.dim / 2;
  T* head = p.qkv + row * p.stride + static_cast<int64_t>(h) * p.dim;
  const T* weight = h < p.q_heads ? p.q_norm : h < rotated ? p.k_norm : nullptr;
  float scale = 1;
  // All lanes of the warp must come to the shuffles, whatever their head.
  if (p.q_norm != nullptr || p.k_norm != nullptr)
    scale = head_scale<T, N>(p, head, lane, active && weight != nullptr);
  if (!active) return;
  const int slot = p.slots[row];
  const float* cos_sin = p.cos_sin + p.positions[row] * p.cos_sin_stride;
  T* cache = nullptr;
  if (h >= p.q_heads && slot >= 0) {
    const bool is_key = h < rotated;
    cache = (is_key ? p.k_cache : p.v_cache) + slot / p.page_size * p.page_stride +
            slot % p.page_size * p.slot_stride +
            (h - (is_key ? p.q_heads : rotated)) * p.head_stride;
  }
  if (h >= rotated && cache == nullptr) return;
  for (int i = lane * N; i < half; i += p.group * N) {
    Vec<T, N> a = load_vec<T, N>(head + i), b = load_vec<T, N>(head + half + i);
    if (h < rotated) {
      rotate<T, N>(a, b, cos_sin, half, i, weight, scale);
      store_vec(head + i, a);
      store_vec(head + half + i, b);
    }
    if (cache != nullptr) {
      store_vec(cache + i, a);
      store_vec(cache + half + i, b);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kMaxThreads) rope_kernel(RopeParams<T> p) {
  let_next_start();
  wait_for_previous();
  const int live = p.live.count(), heads = p.q_heads + 2 * p.kv_heads;
  const int lane = static_cast<int>(threadIdx.x) % p.group;
  const int first = static_cast<int>(threadIdx.x) / p.group;
  const int groups = static_cast<int>(blockDim.x) / p.group;
  for (int64_t row = blockIdx.x; row < live; row += gridDim.x)
    for (int base = 0; base < heads; base += groups) {
      const int h = base + first;
      process_head<T, N>(p, row, min(h, heads - 1), lane, h < heads);
    }
}

template <typename T, int N>
void launch_rope(RopeParams<T> p, int64_t rows, const Launch& launch) {
  p.group = 1;
  while (p.group < 32 && p.group * N < p.dim / 2) p.group *= 2;
  const int heads = p.q_heads + 2 * p.kv_heads;
  const int threads = std::clamp((heads * p.group + 31) / 32 * 32, 32, kMaxThreads);
  const int64_t resident = static_cast<int64_t>(launch.sms) * (2048 / std::max(threads, 64));
  const auto blocks = static_cast<unsigned>(std::min(rows, resident));
  launch_dependent(rope_kernel<T, N>, blocks, threads, 0, rows, launch,
                   "launching rotary embedding", p);
}

bool is_cache_aligned(const KvCacheView& c) {
  const int64_t element = dtype_size(c.dtype);
  return reinterpret_cast<uintptr_t>(c.k) % 16 == 0 && reinterpret_cast<uintptr_t>(c.v) % 16 == 0 &&
         c.page_stride * element % 16 == 0 && c.slot_stride * element % 16 == 0 &&
         c.head_stride * element % 16 == 0;
}

}  // namespace

void run(const RopeAppendArgs& args, const Launch& launch) {
  if (args.qkv.empty()) return;
  NANO_CHECK(args.cache.dtype == args.qkv.dtype(), "a cache of {} for {}",
             dtype_name(args.cache.dtype), args.qkv.to_string());
  const int64_t rows = args.qkv.rows(), element = dtype_size(args.qkv.dtype());
  const bool aligned = is_vector_aligned(args.qkv) && is_cache_aligned(args.cache) &&
                       args.head_dim / 2 * element % 16 == 0;
  with_act_type(args.qkv.dtype(), [&]<typename T>(T) {
    const auto norm = [](const TensorView& v) {
      return v.rank() == 0 ? nullptr : static_cast<const T*>(v.data());
    };
    const RopeParams<T> p{.qkv = static_cast<T*>(args.qkv.data()),
                          .stride = args.qkv.row_stride(),
                          .q_heads = static_cast<int>(args.num_q_heads),
                          .kv_heads = static_cast<int>(args.num_kv_heads),
                          .dim = static_cast<int>(args.head_dim),
                          .group = 1,
                          .positions = static_cast<const int32_t*>(args.positions.data()),
                          .slots = static_cast<const int32_t*>(args.kv_slots.data()),
                          .cos_sin = static_cast<const float*>(args.cos_sin.data()),
                          .cos_sin_stride = args.cos_sin.row_stride(),
                          .q_norm = norm(args.q_norm),
                          .k_norm = norm(args.k_norm),
                          .eps = args.norm_eps,
                          .k_cache = static_cast<T*>(args.cache.k),
                          .v_cache = static_cast<T*>(args.cache.v),
                          .page_stride = args.cache.page_stride,
                          .slot_stride = args.cache.slot_stride,
                          .head_stride = args.cache.head_stride,
                          .page_size = static_cast<int>(args.cache.page_size),
                          .live = live_rows(launch, rows)};
    if (aligned) return launch_rope<T, 16 / sizeof(T)>(p, rows, launch);
    launch_rope<T, 1>(p, rows, launch);
  });
}

}  // namespace nanoflow::cuda
