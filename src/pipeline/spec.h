// PipelineSpec: the decision how a step is cut into nano-ops, on which lanes, with how many SMs, in
// which issue order. Plain data, JSON on disk, no pointers, no waits: waits are derived from what
// ops read and write (lower.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "ops/backend.h"
#include "ops/graph.h"

namespace nanoflow {

/// What a spec was made for. Empty or 0 fits anything. `rows` is the whole of which the spec's row
/// ranges are parts: with 2, [0, 1] is the first half of any bucket; with 2048, [0, 640] is just
/// that in the bucket of 2048 rows, and its share of any other.
struct SpecKey {
  std::string model;
  std::string device;
  int tp = 0;
  int64_t rows = 1;
  bool operator==(const SpecKey&) const = default;
};

/// One op on one range of rows.
struct NanoOp {
  std::string op;  ///< name of a layer op of the graph
  RowRange rows;   ///< of [0, key.rows); scaled to the bucket a plan is made for (scale_rows)
  int stage = 0;   ///< s: of the layer s ahead, so issued s periods early
  LaneId lane = 0;
  SmBudget sm;
  /// Entries of the order (by index) that should have started before this one, so that a small grid
  /// is resident before a large one fills the device. A hint: no result depends on it.
  std::vector<int> after_start;
  bool operator==(const NanoOp&) const = default;
};

/// One period of the layer loop. Ops of the graph's prologue and epilogue are not listed: they run
/// uncut, on lane 0, before and after.
/// On disk, as write_spec() prints it:
///   {"name": "two halves", "key": {"rows": 2}, "order": [
///    {"op": "qkv", "rows": [0, 1], "lane": 0},
///    {"op": "attn_decode", "rows": [0, 1], "lane": 1, "stage": 1, "sms": 20, "hard": true},
///    {"op": "qkv", "rows": [1, 2], "lane": 0, "after_start": [1]}
///   ]}
struct PipelineSpec {
  std::string name;
  SpecKey key;
  std::vector<NanoOp> order;

  [[nodiscard]] int num_lanes() const;
  [[nodiscard]] int max_stage() const;
  [[nodiscard]] Json to_json() const;
  bool operator==(const PipelineSpec&) const = default;
};

/// Throws FormatError naming `origin` and the entry: wrong types, unknown or repeated keys, ranges
/// outside [0, key.rows], lanes, stages, budgets or references that cannot be.
PipelineSpec parse_spec(const Json& json, const std::string& origin);
/// Throws IoError, too.
PipelineSpec read_spec(const std::filesystem::path& path);
/// One nano-op per line; read_spec() gives back the same spec. Throws IoError.
void write_spec(const std::filesystem::path& path, const PipelineSpec& spec);

/// `range` of a spec whose unit is `spec_rows`, in a bucket of `bucket_rows` rows. In the bucket
/// that a spec was made for (both equal) cuts are exact. In others they keep their proportion and
/// are rounded to multiples of 16 rows (from 64 rows on), since GEMM tiles are; a range may become
/// empty.
RowRange scale_rows(const RowRange& range, int64_t spec_rows, int64_t bucket_rows);

}  // namespace nanoflow
