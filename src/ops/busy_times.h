// Where a device's time goes: what was measured of single steps (StepRecord), and BusyTimes, their
// sums by kind and op.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace nanoflow {

/// The parts that reports split a step's time into.
enum class TimeKind : uint8_t { kGemm, kAttentionDecode, kAttentionPrefill, kNetwork, kOther };
inline constexpr size_t kNumTimeKinds = 5;

/// Attention of both phases at once counts as prefill.
TimeKind time_kind(const OpArgs& args);
/// "gemm", "attention_decode", ...
std::string_view time_kind_name(TimeKind kind);

/// One op of one step.
struct OpRecord {
  std::string name;  ///< the graph's: "qkv"
  TimeKind kind = TimeKind::kOther;
  LaneId lane = 0;
  int layer = -1;        ///< -1: none
  RowRange rows;         ///< of the step's rows, or of its sampled ones; padding included
  int64_t begin_ns = 0;  ///< on the device's clock
  int64_t end_ns = 0;
  double flops = 0;  ///< op_cost of the live rows
  double bytes = 0;  ///< op_cost's memory_bytes; attention: of the keys and values it reads, alone
  [[nodiscard]] int64_t ns() const { return end_ns - begin_ns; }
};

/// One step, from the begin of its first op to the end of its last. Copies of its inputs and
/// results lie between the steps.
struct StepRecord {
  int64_t index = 0;
  int64_t num_rows = 0;  ///< live
  int64_t num_decode_rows = 0;
  int64_t bucket = 0;    ///< rows of its plan
  int64_t begin_ns = 0;  ///< on the device's clock; 0: the first step
  int64_t end_ns = 0;
  /// Since the end of the step before; 0: the first step, and one that the measuring delayed.
  int64_t idle_ns = 0;
  std::vector<OpRecord> ops;  ///< as issued; empty where only the step was timed
  [[nodiscard]] int64_t ns() const { return end_ns - begin_ns; }
};

/// Takes every step's record, in order. Called on the device's thread, so it should be quick.
using StepRecordSink = std::function<void(const StepRecord& record)>;

/// Totals since the start.
struct BusySnapshot {
  struct Kind {
    int64_t ns = 0;
    double flops = 0;
    double bytes = 0;
  };
  /// Steps of one bucket, with and without timed ops.
  struct Bucket {
    int64_t timed = 0, timed_ns = 0;
    int64_t plain = 0, plain_ns = 0;
  };
  int64_t steps = 0;
  int64_t step_ns = 0;
  int64_t idle_ns = 0;  ///< between steps
  std::map<int64_t, Bucket> buckets;
  // Of the steps whose ops were timed:
  int64_t timed_steps = 0;
  int64_t timed_ns = 0;
  std::array<Kind, kNumTimeKinds> kinds;  ///< by TimeKind, summed over lanes
  std::map<std::string, int64_t> op_ns;   ///< by OpRecord::name, summed over lanes
  int64_t any_ns = 0;                     ///< at least one lane ran an op
  int64_t overlap_ns = 0;                 ///< two lanes or more did

  [[nodiscard]] const Kind& kind(TimeKind k) const { return kinds[static_cast<size_t>(k)]; }
  /// Share of the time that lies between steps.
  [[nodiscard]] double idle_share() const;
  /// What happened after `earlier`.
  [[nodiscard]] BusySnapshot since(const BusySnapshot& earlier) const;
  /// By what share a step whose ops are timed takes longer than the others of its bucket; nullopt
  /// where no bucket has kComparable of both.
  [[nodiscard]] std::optional<double> timing_cost() const;
  /// Fewer steps of a bucket differ by what they compute.
  static constexpr int64_t kComparable = 8;
};

/// Collects. Thread-safe.
class BusyTimes {
 public:
  void add(const StepRecord& record);
  [[nodiscard]] BusySnapshot snapshot() const;

 private:
  mutable std::mutex mutex_;
  BusySnapshot totals_;
};

}  // namespace nanoflow
