#include "backend/cuda/fallback.h"

#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda::fallback {
namespace {

constexpr int kTile = 16;

/// A row-major matrix of any activation dtype.
struct Matrix {
  void* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::kF32;
};

Matrix matrix(const TensorView& v) {
  return {v.data(), v.row_stride(), v.dtype()};
}

/// Rows of `a` and `out` that one launch multiplies by weights of one or several experts.
struct Product {
  Matrix out, a, w;
  const void* bias;  ///< or null
  DType bias_dtype;
  const float* scale;  ///< per weight row, or null
  int64_t n, k;
  LiveRows live;
  const int32_t* order;  ///< grouped with gather: row of a is order[i] / per_token; else null
  const int32_t*
      offsets;  ///< grouped: rows of expert e are [offsets[e], offsets[e + 1]); else null
  int experts;
  int per_token;
};

/// One output element per thread; 16 x 16 tiles of a and w pass through shared memory. Tiles of a
/// grouped product lie within one expert.
__global__ void __launch_bounds__(kTile* kTile) product_kernel(Product p) {
  __shared__ float a_tile[kTile][kTile + 1], w_tile[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTile, y = static_cast<int>(threadIdx.x) / kTile;
  const int expert = static_cast<int>(blockIdx.z);
  const int first = p.offsets != nullptr ? p.offsets[expert] : 0;
  const int end = p.offsets != nullptr ? p.offsets[expert + 1] : p.live.count();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int64_t row0 = first + static_cast<int64_t>(blockIdx.y) * kTile; row0 < end;
       row0 += static_cast<int64_t>(gridDim.y) * kTile) {
    const int64_t i = row0 + y;
    const int64_t a_row = i >= end ? 0 : (p.order != nullptr ? p.order[i] / p.per_token : i);
    const int64_t w_row = expert * p.n + column + y;
    float sum = 0;
    for (int64_t k0 = 0; k0 < p.k; k0 += kTile) {
      const int64_t k = k0 + x;
      a_tile[y][x] =
          i < end && k < p.k ? load_any(p.a.data, p.a.dtype, a_row * p.a.stride + k) : 0.0f;
      w_tile[y][x] = column + y < p.n && k < p.k
                         ? load_any(p.w.data, p.w.dtype, w_row * p.w.stride + k)
                         : 0.0f;
      __syncthreads();
      for (int j = 0; j < kTile; ++j) sum += a_tile[y][j] * w_tile[x][j];
      __syncthreads();
    }
    const int64_t col = column + x;
    if (i >= end || col >= p.n) continue;
    if (p.scale != nullptr) sum *= p.scale[expert * p.n + col];
    if (p.bias != nullptr) sum += load_any(p.bias, p.bias_dtype, col);
    store_any(p.out.data, p.out.dtype, i * p.out.stride + col, sum);
  }
}

void launch_product(const Product& p, int64_t rows, const Launch& launch) {
  if (rows == 0 || p.n == 0) return;
  const auto columns = static_cast<unsigned>((p.n + kTile - 1) / kTile);
  const auto tiles = static_cast<unsigned>(std::min<int64_t>((rows + kTile - 1) / kTile, 4096));
  const dim3 grid(columns, tiles, static_cast<unsigned>(p.experts));
  product_kernel<<<grid, kTile * kTile, 0, launch.stream>>>(p);
  check_launch("the fallback matrix product");
}

const float* scales(const PackedWeight& weight) {
  return weight.scale.rank() == 0 ? nullptr : static_cast<const float*>(weight.scale.data());
}

constexpr int kMaxDimPerLane = 16;  // head_dim up to 512

struct Attention {
  Matrix out, q;
  KvCacheView cache;
  int q_heads, kv_heads, dim;
  float scale;
  int window;
  LiveRows live;
  const StepHeader* header;
  Phase phase;
  int64_t first_row;  ///< of the range, in the batch
  const int32_t *positions, *row_seq, *page_indptr, *page_indices;
};

/// One warp per (row, head): online softmax over the attended positions.
__global__ void __launch_bounds__(128) attention_kernel(Attention a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int live = a.live.count();
  int begin = 0, end = live;
  if (a.phase != Phase::kAny) {
    const int64_t before = a.header->num_decode_rows - a.first_row;
    const int decodes = static_cast<int>(before < 0 ? 0 : before > live ? live : before);
    (a.phase == Phase::kDecode ? end : begin) = decodes;
  }
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const int64_t work = static_cast<int64_t>(end - begin) * a.q_heads;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       item < work; item += warps) {
    const int64_t row = begin + item / a.q_heads;
    const int head = static_cast<int>(item % a.q_heads);
    const int kv_head = head / (a.q_heads / a.kv_heads);
    const int position = a.positions[a.first_row + row];
    const int32_t* pages = a.page_indices + a.page_indptr[a.row_seq[a.first_row + row]];
    float q[kMaxDimPerLane], sum[kMaxDimPerLane];
#pragma unroll
    for (int j = 0; j < kMaxDimPerLane; ++j) {
      const int d = j * 32 + lane;
      sum[j] = 0;
      q[j] = d < a.dim
                 ? a.scale * load_any(a.q.data, a.q.dtype,
                                      row * a.q.stride + static_cast<int64_t>(head) * a.dim + d)
                 : 0.0f;
    }
    float best = -INFINITY, total = 0;
    for (int p = a.window > 0 ? max(0, position + 1 - a.window) : 0; p <= position; ++p) {
      const int64_t at = pages[p / a.cache.page_size] * a.cache.page_stride +
                         p % a.cache.page_size * a.cache.slot_stride +
                         kv_head * a.cache.head_stride;
      float score = 0;
#pragma unroll
      for (int j = 0; j < kMaxDimPerLane; ++j)
        if (j * 32 + lane < a.dim)
          score += q[j] * load_any(a.cache.k, a.cache.dtype, at + j * 32 + lane);
      for (int step = 16; step > 0; step /= 2) score += __shfl_xor_sync(~0u, score, step);
      const float larger = fmaxf(best, score);
      const float keep = expf(best - larger), weight = expf(score - larger);
      best = larger;
      total = total * keep + weight;
#pragma unroll
      for (int j = 0; j < kMaxDimPerLane; ++j)
        if (j * 32 + lane < a.dim)
          sum[j] = sum[j] * keep + weight * load_any(a.cache.v, a.cache.dtype, at + j * 32 + lane);
    }
#pragma unroll
    for (int j = 0; j < kMaxDimPerLane; ++j)
      if (j * 32 + lane < a.dim)
        store_any(a.out.data, a.out.dtype,
                  row * a.out.stride + static_cast<int64_t>(head) * a.dim + j * 32 + lane,
                  sum[j] / total);
  }
}

}  // namespace

void run(const GemmArgs& args, const Launch& launch) {
  const bool has_bias = args.bias.rank() != 0;
  launch_product({.out = matrix(args.out),
                  .a = matrix(args.a),
                  .w = matrix(args.weight.data),
                  .bias = has_bias ? args.bias.data() : nullptr,
                  .bias_dtype = has_bias ? args.bias.dtype() : DType::kF32,
                  .scale = scales(args.weight),
                  .n = args.weight.n,
                  .k = args.weight.k,
                  .live = live_rows(launch, args.a.rows()),
                  .order = nullptr,
                  .offsets = nullptr,
                  .experts = 1,
                  .per_token = 1},
                 args.a.rows(), launch);
}

void run(const GroupedGemmArgs& args, const Launch& launch) {
  const auto* order = static_cast<const int32_t*>(args.order.data());
  launch_product({.out = matrix(args.out),
                  .a = matrix(args.a),
                  .w = matrix(args.weight.data),
                  .bias = nullptr,
                  .bias_dtype = DType::kF32,
                  .scale = scales(args.weight),
                  .n = args.weight.n,
                  .k = args.weight.k,
                  .live = {},
                  .order = args.gather ? order : nullptr,
                  .offsets = static_cast<const int32_t*>(args.offsets.data()),
                  .experts = static_cast<int>(args.weight.experts),
                  .per_token = static_cast<int>(args.experts_per_token)},
                 args.order.rows(), launch);
}

void run(const PagedAttentionArgs& args, const Launch& launch) {
  const int64_t items = args.q.rows() * args.num_q_heads;
  if (items == 0) return;
  const auto int32s = [](const TensorView& v) { return static_cast<const int32_t*>(v.data()); };
  const Attention a{.out = matrix(args.out),
                    .q = matrix(args.q),
                    .cache = args.cache,
                    .q_heads = static_cast<int>(args.num_q_heads),
                    .kv_heads = static_cast<int>(args.num_kv_heads),
                    .dim = static_cast<int>(args.head_dim),
                    .scale = args.scale,
                    .window = static_cast<int>(args.window),
                    .live = live_rows(launch, args.q.rows()),
                    .header = args.step.header,
                    .phase = args.phase,
                    .first_row = args.rows.begin,
                    .positions = int32s(args.step.positions),
                    .row_seq = int32s(args.step.row_seq),
                    .page_indptr = int32s(args.step.kv_page_indptr),
                    .page_indices = int32s(args.step.kv_page_indices)};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((items + 3) / 4, launch.sms * 16));
  attention_kernel<<<blocks, 128, 0, launch.stream>>>(a);
  check_launch("the fallback attention");
}

}  // namespace nanoflow::cuda::fallback
