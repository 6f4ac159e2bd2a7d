// Runs one op on two backends from the same random inputs and compares. Uses only the Backend
// interface: memory is allocated, filled and read through it.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "compare.h"
#include "ops/backend.h"

namespace nanoflow::testing_ops {

/// The two sides of a comparison. `reference` is the CPU's plain kernels; `tested` its fast ones,
/// or the GPU when NANOFLOW_TEST_DEVICE=cuda says so.
struct Sides {
  std::unique_ptr<Backend> reference;
  std::unique_ptr<Backend> tested;
};
Sides make_sides();

/// Whether a backend computes on the CPU, whose rows have the same bits in any batch.
bool is_cpu(const Backend& backend);

/// Random numbers of one test; the seed is new in every run, printed on failure, and can be given
/// in the environment as NANOFLOW_TEST_SEED.
class Random {
 public:
  Random();
  [[nodiscard]] uint64_t seed() const { return seed_; }
  double normal() { return normal_(engine_); }
  /// Uniform in [0, n).
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }
  HostTensor normals(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0, double scale = 1);
  HostTensor ints(int64_t rows, int64_t cols, int64_t n);
  std::mt19937_64& engine() { return engine_; }

 private:
  uint64_t seed_;
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

/// A vector of int32 or float32 as a tensor [n, 1].
HostTensor int_vector(const std::vector<int32_t>& values);

/// Logical keys and values of some sequences; each backend keeps them in pages of its own layout.
struct KvContent {
  KvShape shape;
  std::vector<int64_t> lengths;  ///< tokens per sequence
  HostTensor k, v;               ///< [total tokens, heads * head_dim] of shape.dtype
};

/// What a case's bind() sees: its tensors in the memory of one backend.
class Bound {
 public:
  /// [rows, cols] with the case's row stride.
  [[nodiscard]] TensorView view(size_t tensor) const;
  /// A tensor [n, 1] as [n].
  [[nodiscard]] TensorView vector(size_t tensor) const;
  [[nodiscard]] PackedWeight weight(size_t tensor) const;
  [[nodiscard]] KvCacheView cache() const { return cache_; }
  /// Page table (kv_page_indptr, kv_page_indices) and header.
  [[nodiscard]] StepInputs step() const { return step_; }
  /// kv_slots of the rows, -1 where the case says so.
  [[nodiscard]] TensorView kv_slots() const { return kv_slots_; }

 private:
  friend class Runner;
  std::vector<TensorView> views_;
  std::vector<OwnedWeight> weights_;
  KvCacheView cache_;
  StepInputs step_;
  TensorView kv_slots_;
  std::vector<Buffer> buffers_;
};

/// A tensor that the op writes.
struct Output {
  size_t tensor;
  RowRange written;
  ElementBound bound;
};

struct Case {
  std::vector<HostTensor> tensors;
  struct Weight {
    HostTensor data;
    WeightUse use = WeightUse::kMatmul;
    int64_t experts = 1;
  };
  std::vector<Weight> weights;
  KvContent kv;                                      ///< empty lengths: no cache
  std::vector<std::pair<int64_t, int64_t>> appends;  ///< per row (sequence, position); -1: nowhere
  ElementBound kv_bound;  ///< of the cache after the op; empty: must not change
  StepHeader header;
  bool has_header = false;
  RowRange rows;
  SmBudget sm;
  std::function<OpArgs(const Bound&)> bind;
  std::vector<Output> outputs;
};

/// Fails the current test with the case's name and seed where the backends differ.
void expect_same(const Sides& sides, const Case& c, const std::string& name, uint64_t seed);

/// What one backend leaves in a case's tensors.
std::vector<HostTensor> run_case(Backend& backend, const Case& c);

}  // namespace nanoflow::testing_ops
