#include "parity/golden.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "base/check.h"
#include "base/json.h"
#include "base/mmap.h"

namespace nanoflow {

std::filesystem::path golden_folder(const std::string& name) {
  return std::filesystem::path(NANOFLOW_FIXTURES) / "models" / name;
}

GoldenModel read_golden_model(const std::string& name, int64_t vocab_size) {
  GoldenModel model;
  model.folder = golden_folder(name);
  const Json json = parse_json(read_file(model.folder / "golden.json")).value();
  model.weights = {.seed = static_cast<uint64_t>(json.find("seed")->as_int()),
                   .matrix_deviation = json.find("matrix_deviation")->as_double(),
                   .norm_deviation = json.find("norm_deviation")->as_double(),
                   .bias_deviation = json.find("bias_deviation")->as_double()};
  const std::string raw = read_file(model.folder / "golden.f32");
  size_t offset = 0;
  for (const Json& prompt : json.find("prompts")->as_array()) {
    std::vector<int32_t>& ids = model.prompts.emplace_back();
    for (const Json& id : prompt.as_array()) ids.push_back(static_cast<int32_t>(id.as_int()));
    std::vector<float>& logits =
        model.logits.emplace_back(ids.size() * static_cast<size_t>(vocab_size));
    NANO_CHECK(offset + logits.size() * 4 <= raw.size(), "{}: golden.f32 is short", name);
    std::memcpy(logits.data(), raw.data() + offset, logits.size() * 4);
    offset += logits.size() * 4;
  }
  NANO_CHECK(offset == raw.size(), "{}: golden.f32 is long", name);
  return model;
}

// One op of reduction length k errs by about 4 sqrt(k) eps(float32) of its result's magnitude
// (roundings in any order behave like a random walk; 4 deviations), and its store by eps(act). A
// logit sees about 8 stores per layer (norm, qkv, rotation, attention, o, norm, gate_up, silu,
// down, of which the residual stream keeps the relative size of two), whose errors add like a
// random walk too. Both are relative to the row's largest logit, since errors of the hidden state
// spread over all of them. 4 deviations again for the largest of all logits.
double logits_bound(const ModelConfig& config, DType act, double largest_logit) {
  const double k = static_cast<double>(
      std::max({config.hidden_size, config.intermediate_size, config.q_rows(1)}));
  const double ops = 8.0 * static_cast<double>(config.num_hidden_layers) + 2;
  const double per_op = 4 * std::sqrt(k) * dtype_epsilon(DType::kF32) + dtype_epsilon(act);
  return 4 * std::sqrt(ops) * per_op * largest_logit;
}

namespace {

struct Top {
  int64_t index = 0;
  double margin = 0;  // to the second largest
};

Top find_top(const float* row, int64_t count) {
  Top top;
  double first = -INFINITY;
  double second = -INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    if (row[i] > first) {
      second = first;
      first = row[i];
      top.index = i;
    } else if (row[i] > second) {
      second = row[i];
    }
  }
  top.margin = first - second;
  return top;
}

}  // namespace

LogitsComparison compare_logits(const ModelConfig& config, DType act, const std::vector<float>& got,
                                const std::vector<float>& want) {
  LogitsComparison result;
  const int64_t vocab = config.vocab_size;
  NANO_CHECK(got.size() == want.size() && want.size() % static_cast<size_t>(vocab) == 0,
             "{} logits, {} golden ones", got.size(), want.size());
  result.rows = static_cast<int64_t>(want.size()) / vocab;
  for (int64_t r = 0; r < result.rows; ++r) {
    const float* g = got.data() + r * vocab;
    const float* w = want.data() + r * vocab;
    double largest = 0;
    for (int64_t i = 0; i < vocab; ++i) largest = std::max(largest, std::abs(double{w[i]}));
    const double bound = logits_bound(config, act, largest);
    bool out_of_bound = false;
    for (int64_t i = 0; i < vocab; ++i) {
      const double difference = std::abs(double{g[i]} - double{w[i]});
      result.worst_ratio = std::max(result.worst_ratio, difference / bound);
      if (difference <= bound) continue;  // false for NaN
      out_of_bound = true;
      if (result.first_failure.empty())
        result.first_failure =
            fmt::format("row {} token {}: {} instead of {}, bound {}", r, i, g[i], w[i], bound);
    }
    result.rows_out_of_bound += out_of_bound ? 1 : 0;
    const Top golden = find_top(w, vocab);
    if (find_top(g, vocab).index == golden.index) continue;
    (golden.margin > 2 * bound ? result.argmax_differs : result.near_ties) += 1;
  }
  return result;
}

}  // namespace nanoflow
