// Dense matrix products: cuBLASLt with an algorithm per shape.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/gemm_table.h"
#include "backend/cuda/kernels.h"
#include "ops/op_args.h"

namespace nanoflow::cuda {

/// What a product's algorithm depends on. Dims as in GemmArgs: out [rows, n], a [rows, k].
struct GemmShape {
  int64_t rows = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t a_stride = 0;    ///< elements between rows of a
  int64_t out_stride = 0;  ///< elements between rows of out
  DType dtype = DType::kBF16;
  DType out_dtype = DType::kBF16;
  bool bias = false;
  int sms = 0;  ///< that the product may use
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes what a defaulted <=> returns for one
  auto operator<=>(const GemmShape&) const = default;
};

/// A library's algorithm with the workspace it needs.
struct GemmAlgorithm {
  cublasLtMatmulAlgo_t algo{};
  int64_t workspace_bytes = 0;
};

/// Products of one GPU; used by its backend's thread only.
class Gemm {
 public:
  /// What NVIDIA advises for Hopper; split-K partial sums need it.
  static constexpr int64_t kMaxWorkspaceBytes = int64_t{32} << 20;

  /// Algorithms are those of the last table that applies to this GPU and library and has the
  /// product, else the library's first proposal. Throws CudaError when cuBLASLt
  /// cannot be started.
  Gemm(const DeviceLimits& device, const std::vector<GemmTable>& tables);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  /// 16-bit operands, row-major weights, rows of 16-byte multiples; a bias only with results of its
  /// own type (the library refuses it beside float32 results).
  [[nodiscard]] static bool supports(const GemmArgs& args);
  [[nodiscard]] int64_t workspace_bytes(const GemmArgs& args, int sms);
  /// Asynchronous on launch.stream. Throws CudaError when the library refuses.
  void run(const GemmArgs& args, const Launch& launch);

  [[nodiscard]] static GemmShape shape_of(const GemmArgs& args, int sms);
  /// Algorithms that the library proposes for `shape`, best guess first; at most `count`. For
  /// choosing among them by measurement.
  [[nodiscard]] std::vector<GemmAlgorithm> candidates(const GemmShape& shape, int count);
  /// From now on `shape` uses `algorithm`.
  void choose(const GemmShape& shape, const GemmAlgorithm& algorithm);

 private:
  struct Prepared;

  Prepared& prepare(const GemmShape& shape);
  /// A measured choice that the library accepts for `shape`.
  [[nodiscard]] std::optional<GemmAlgorithm> measured(const GemmShape& shape,
                                                      const Prepared& p) const;
  [[nodiscard]] std::unique_ptr<Prepared> describe(const GemmShape& shape) const;

  const DeviceLimits& device_;
  cublasLtHandle_t handle_ = nullptr;
  std::vector<GemmTable> tables_;  // that apply
  std::map<GemmShape, std::unique_ptr<Prepared>> prepared_;
};

}  // namespace nanoflow::cuda
