// ResultArrays: what the sample graph writes, and its way back to the host.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "engine/step_batch.h"
#include "ops/backend.h"

namespace nanoflow {

class ResultArrays {
 public:
  /// Room for `capacity` sampled rows. Throws OutOfMemory naming what to lower.
  ResultArrays(Backend& backend, int64_t capacity);

  /// The sample graph's external result symbols by name, rows [begin, begin + rows).
  void bind(std::map<std::string, TensorView, std::less<>>& external, int64_t begin,
            int64_t rows) const;

  /// Enqueues the copy of a step's results to the host on lane 0, and an event behind it. At most
  /// two steps may be on their way.
  void download(const StepBatch& batch);
  /// Waits for the oldest step on its way. Throws what the step threw.
  StepResults wait();

 private:
  /// Byte offsets; top logprobs come last, since most steps have none.
  struct Layout {
    explicit Layout(int64_t capacity);
    int64_t ids, logprobs, ranks, top_ids, top_logprobs, size;
  };
  struct Pending {
    int64_t index = 0;
    int64_t num_samples = 0;
    bool has_top = false;
  };

  void copy_rows(int64_t offset, int64_t bytes);
  template <typename T>
  void read(std::vector<T>& out, int64_t offset, int64_t count) const;

  Backend& backend_;
  Layout layout_;
  int64_t capacity_;
  Buffer device_;
  std::array<Buffer, 2> host_;
  std::array<EventId, 2> events_{};
  std::array<Pending, 2> pending_;
  size_t next_in_ = 0;
  size_t next_out_ = 0;
};

}  // namespace nanoflow
