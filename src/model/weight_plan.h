// Which tensors of a checkpoint, and which parts of them, make up each weight of one rank. Pure
// arithmetic on a ModelConfig; reading them is weights.h's. Internal to model/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/backend.h"

namespace nanoflow {

/// Rows and columns of one checkpoint tensor that become rows [out_row, out_row + rows) of a
/// weight.
struct WeightPiece {
  std::string tensor;          ///< Hugging Face name
  std::vector<int64_t> shape;  ///< that the whole tensor must have
  int64_t row_begin = 0;       ///< of the tensor seen as a matrix; a vector is one row
  int64_t col_begin = 0;
  int64_t rows = 0;
  int64_t out_row = 0;
  int64_t out_col = 0;  ///< vectors are put side by side, matrices on top of each other
  int64_t cols = 0;
};

/// One weight as Backend::prepare_weight gets it. What no piece covers is zero.
struct WeightSpec {
  std::string name;
  int layer = -1;  ///< -1: global
  WeightUse use = WeightUse::kMatmul;
  int64_t rows = 0;  ///< over all experts
  int64_t cols = 0;
  int64_t experts = 1;
  std::vector<WeightPiece> pieces;
  [[nodiscard]] bool is_vector() const { return use == WeightUse::kVector; }
  [[nodiscard]] int64_t elements() const { return rows * cols; }
};

/// All weights of rank `tp_rank` of `tp_size`, the largest (globals) first. With tied embeddings
/// "lm_head" has the embedding's pieces. The rope table is not among them.
std::vector<WeightSpec> plan_weights(const ModelConfig& config, int tp_rank, int tp_size);

}  // namespace nanoflow
