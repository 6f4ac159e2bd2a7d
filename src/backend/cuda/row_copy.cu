// Ops that copy rows: embedding, gathering, and the collectives of one rank. Elements are moved as
// bytes, as wide as both sides are aligned.
#include <algorithm>

#include "backend/cuda/cuda.h"
#include "backend/cuda/element.cuh"

namespace nanoflow::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;

struct CopyParams {
  const std::byte* from;
  std::byte* to;
  int64_t from_pitch, to_pitch;  ///< bytes between rows
  int64_t row_bytes;
  const int32_t* index;       ///< row of `from`; null: the same row
  const int32_t* last_token;  ///< for index ~slot
  int tiles;                  ///< blocks that cover one row
  LiveRows live;
};

template <typename Word>
__global__ void __launch_bounds__(kThreads) copy_kernel(CopyParams p) {
  const int64_t work = static_cast<int64_t>(p.live.count()) * p.tiles;
  const int64_t words = p.row_bytes / static_cast<int64_t>(sizeof(Word));
  for (int64_t item = blockIdx.x; item < work; item += gridDim.x) {
    const int64_t row = item / p.tiles;
    int64_t source = row;
    if (p.index != nullptr) {
      source = p.index[row];
      if (source < 0) source = p.last_token[~source];
    }
    const auto* from = reinterpret_cast<const Word*>(p.from + source * p.from_pitch);
    auto* to = reinterpret_cast<Word*>(p.to + row * p.to_pitch);
    const int64_t first = (item % p.tiles) * kThreads * kPerThread + threadIdx.x;
    Word words_read[kPerThread];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (first + j * kThreads < words) words_read[j] = from[first + j * kThreads];
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (first + j * kThreads < words) to[first + j * kThreads] = words_read[j];
  }
}

template <typename Word>
void launch_copy(CopyParams p, int64_t rows, const Launch& launch) {
  const int64_t per_block = int64_t{kThreads} * kPerThread * static_cast<int64_t>(sizeof(Word));
  p.tiles = static_cast<int>((p.row_bytes + per_block - 1) / per_block);
  const int64_t resident = static_cast<int64_t>(launch.sms) * (2048 / kThreads);
  const auto blocks = static_cast<unsigned>(std::min(rows * p.tiles, resident));
  copy_kernel<Word><<<blocks, kThreads, 0, launch.stream>>>(p);
  check_launch("a copy of rows");
}

void copy_rows(const TensorView& to, const TensorView& from, const int32_t* index,
               const int32_t* last_token, const Launch& launch) {
  if (to.empty()) return;
  const int64_t element = dtype_size(to.dtype());
  const CopyParams p{.from = static_cast<const std::byte*>(from.data()),
                     .to = static_cast<std::byte*>(to.data()),
                     .from_pitch = from.row_stride() * element,
                     .to_pitch = to.row_stride() * element,
                     .row_bytes = to.cols() * element,
                     .index = index,
                     .last_token = last_token,
                     .tiles = 1,
                     .live = live_rows(launch, to.rows())};
  if (is_vector_aligned(to) && is_vector_aligned(from)) {
    launch_copy<uint4>(p, to.rows(), launch);
  } else if (element == 4) {
    launch_copy<uint32_t>(p, to.rows(), launch);
  } else if (element == 2) {
    launch_copy<uint16_t>(p, to.rows(), launch);
  } else if (element == 8) {
    launch_copy<uint64_t>(p, to.rows(), launch);
  } else {
    launch_copy<uint8_t>(p, to.rows(), launch);
  }
}

const int32_t* int32s(const TensorView& v) {
  return static_cast<const int32_t*>(v.data());
}

}  // namespace

void run(const EmbedArgs& args, const Launch& launch) {
  copy_rows(args.out, args.table, int32s(args.token_ids), int32s(args.last_token), launch);
}

void run(const GatherRowsArgs& args, const Launch& launch) {
  copy_rows(args.out, args.x, int32s(args.index), nullptr, launch);
}

void run(const AllReduceArgs&, const Launch&) {}  // the sum over one rank is in place already

void run(const AllGatherArgs& args, const Launch& launch) {
  NANO_CHECK(args.out.cols() == args.x.cols(), "all_gather of one rank into {}",
             args.out.to_string());
  copy_rows(args.out, args.x, nullptr, nullptr, launch);
}

}  // namespace nanoflow::cuda
