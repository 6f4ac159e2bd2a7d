// Golden models of tests/fixtures/models and the comparison of logits with them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/source.h"

namespace nanoflow {

/// One folder of tests/fixtures/models.
struct GoldenModel {
  std::filesystem::path folder;
  DummyOptions weights;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::vector<float>> logits;  ///< per prompt [tokens, vocab_size], by transformers
};

/// Throws what reading files throws.
GoldenModel read_golden_model(const std::string& name, int64_t vocab_size);
std::filesystem::path golden_folder(const std::string& name);

/// How far logits of one row may be from the golden ones; see the derivation in golden.cc.
double logits_bound(const ModelConfig& config, DType act, double largest_logit);

/// Outcome of comparing rows of logits.
struct LogitsComparison {
  int64_t rows = 0;
  int64_t rows_out_of_bound = 0;
  int64_t argmax_differs = 0;  ///< although the golden margin is above twice the bound
  int64_t near_ties = 0;       ///< argmax differs, golden margin below twice the bound
  double worst_ratio = 0;      ///< largest |difference| / bound
  std::string first_failure;   ///< row, token, both values, bound
};

/// Compares [rows, vocab_size] logits row by row. NaN is out of bound.
LogitsComparison compare_logits(const ModelConfig& config, DType act, const std::vector<float>& got,
                                const std::vector<float>& want);

}  // namespace nanoflow
