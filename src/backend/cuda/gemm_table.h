// Algorithms of dense products that were chosen by measurement: read from and written as JSON.
// Knows nothing of the library beyond that an algorithm is eight words which one version of it
// understands.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace nanoflow::cuda {

/// A measured choice for out [rows, n] = a [rows, k] @ w^T on the whole device.
struct GemmEntry {
  int64_t rows = 0;
  int64_t n = 0;
  int64_t k = 0;
  DType dtype = DType::kBF16;
  DType out_dtype = DType::kBF16;
  std::array<uint64_t, 8> algorithm{};  ///< the words of a cublasLtMatmulAlgo_t
  double microseconds = 0;              ///< sustained, when it was chosen
  double default_microseconds = 0;      ///< of the library's own first choice, likewise
};

/// Choices of one kind of GPU and one version of the library.
class GemmTable {
 public:
  GemmTable() = default;
  GemmTable(std::vector<std::string> devices, uint64_t library)
      : devices_(std::move(devices)), library_(library) {}

  /// {"devices": [names], "cublaslt": version, "entries": [{"rows", "n", "k", "dtype", "out",
  /// "algorithm": 128 hex digits, "us", "default_us"}]}. Throws FormatError
  /// that names `path` and the field.
  static GemmTable parse(std::string_view json, const std::string& path);
  /// The same from a file. Throws IoError too.
  static GemmTable read(const std::string& path);
  [[nodiscard]] std::string to_json() const;

  /// Whether the choices mean something to this version of the library on this GPU.
  [[nodiscard]] bool applies(std::string_view device, uint64_t library) const;
  /// Replaces the entry of the same product.
  void set(const GemmEntry& entry);
  /// Null if there is none. Of exactly these rows: what is fastest changes with how the tiles fill
  /// the last round of SMs, so a neighbour's choice is no measurement.
  [[nodiscard]] const GemmEntry* find(int64_t rows, int64_t n, int64_t k, DType dtype,
                                      DType out_dtype) const;
  [[nodiscard]] const std::vector<GemmEntry>& entries() const { return entries_; }

 private:
  std::vector<std::string> devices_;
  uint64_t library_ = 0;
  std::vector<GemmEntry> entries_;
};

/// The tables that the program carries: specs/gemm/*.json of its sources.
std::vector<GemmTable> shipped_gemm_tables();

}  // namespace nanoflow::cuda
