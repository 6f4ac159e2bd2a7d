// Chooses cuBLASLt's algorithms for the dense products of some models on this GPU by sustained
// measurement and writes them as a table (gemm_table.h) for specs/gemm/.
//
// Usage: cuda_gemm_tune FILE [seconds per window] [candidates]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <utility>
#include <vector>

#include "backend/cuda/gemm_tuner.h"

namespace nanoflow {
namespace {

struct Layer {
  const char* model;
  int64_t qkv, hidden, intermediate, attention;
};

// Mixtral 8x7B's attention has the shapes of the 8B's.
constexpr Layer kLayers[] = {{"llama-8b", 6144, 4096, 14336, 4096},
                             {"qwen2.5-7b", 4608, 3584, 18944, 3584},
                             {"llama-70b", 10240, 8192, 28672, 8192}};
constexpr int64_t kRows[] = {24,  32,  48,  64,   96,   128,  192,  256,
                             384, 512, 768, 1024, 1536, 2048, 3072, 4096};
constexpr std::pair<int64_t, int64_t> kHeads[] = {{128256, 4096}, {152064, 3584}, {128256, 8192}};

int tune(const char* path, double seconds, int candidates) {
  const cuda::DeviceLimits device = cuda::require_device(0);
  cuda::GemmTuner tuner(device, {.window_seconds = seconds, .candidates = candidates});
  cuda::GemmTable table = tuner.table();
  tuner.warm_up(3);
  double first = 0, best = 0;
  const auto measure = [&](int64_t rows, int64_t n, int64_t k, DType out) {
    const cuda::GemmEntry e = tuner.tune(rows, n, k, out);
    table.set(e);
    first += e.default_microseconds;
    best += e.microseconds;
    std::printf("n %6ld k %6ld rows %5ld  first %9.1f us  best %9.1f us  %.3f\n",
                static_cast<long>(n), static_cast<long>(k), static_cast<long>(rows),
                e.default_microseconds, e.microseconds, e.default_microseconds / e.microseconds);
  };
  for (const Layer& l : kLayers) {
    first = best = 0;
    for (const int64_t rows : kRows) {
      measure(rows, l.qkv, l.hidden, DType::kBF16);
      measure(rows, l.hidden, l.attention, DType::kBF16);
      measure(rows, 2 * l.intermediate, l.hidden, DType::kBF16);
      measure(rows, l.hidden, l.intermediate, DType::kBF16);
    }
    std::printf("%s: the chosen ones take %.3f of the first proposals' time\n", l.model,
                best / first);
    std::ofstream(path) << table.to_json();
  }
  for (const auto& [n, k] : kHeads)
    for (const int64_t rows : {32, 64, 128, 256, 512, 1024}) measure(rows, n, k, DType::kF32);
  std::ofstream file(path);
  file << table.to_json();
  return file.good() ? 0 : 1;
}

}  // namespace
}  // namespace nanoflow

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: cuda_gemm_tune FILE [seconds per window] [candidates]\n");
    return 2;
  }
  try {
    return nanoflow::tune(argv[1], argc > 2 ? std::atof(argv[2]) : 0.04,
                          argc > 3 ? std::atoi(argv[3]) : 8);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
