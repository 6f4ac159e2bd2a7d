// BatchRunner: a whole data set through the engine, from one thread: read, parse, submit, follow,
// hand over.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "api/batch_output.h"
#include "api/completion.h"
#include "api/dataset.h"
#include "api/serving_stats.h"
#include "engine/engine.h"

namespace nanoflow {

struct BatchOptions {
  /// Requests of the data set that are read ahead and in flight at most; bounds memory, and should
  /// be at least the engine's max_num_seqs twice over so that it never runs dry.
  int64_t max_in_flight = 1024;
  /// Body fields for items that leave them out or null ("max_tokens", "temperature", ...): an
  /// object.
  Json defaults;
  /// Called once for each column of the data set that is no request field and has no effect; may be
  /// null.
  std::function<void(const std::string& name)> on_ignored_column;
};

/// One item's end: a served completion, or why there is none.
struct BatchResult {
  const DatasetItem& item;
  const Completion* completion = nullptr;  ///< null when `error` is set
  std::optional<Error> error;
};

class BatchRunner {
 public:
  using OnResult = std::function<void(const BatchResult&)>;

  /// Everything must outlive the runner. `output` may be null. `on_result` runs on the calling
  /// thread of run(), for each item in the order in which they end.
  BatchRunner(Engine& engine, const TextModel& model, BatchOptions options, BatchOutput* output,
              OnResult on_result);

  /// Reads all of `reader` and throws FormatError unless `output` answers items of this data set,
  /// as this runner would ask them, only. run() finds out, too, but has served others by then.
  void check_resumed(DatasetReader& reader) const;

  /// Serves all items of `reader` that `output` does not have yet. Returns early when `interrupted`
  /// turns true: what is in flight is cancelled and not written. A bad item fails alone. Throws
  /// IoError (output, data set), FormatError (data set, or `output` is of another one),
  /// EnvironmentError (the engine died: items finished until then are written, no others).
  void run(DatasetReader& reader, const std::atomic<bool>& interrupted);

  [[nodiscard]] const ServingStats& stats() const { return stats_; }
  [[nodiscard]] bool was_interrupted() const { return was_interrupted_; }

 private:
  struct InFlight {
    DatasetItem item;
    uint64_t fingerprint = 0;
    std::optional<Completion> completion;
    std::vector<Request> unsubmitted;  // back first
  };

  [[nodiscard]] uint64_t fingerprint(const DatasetItem& item) const;
  [[nodiscard]] bool is_done(const DatasetItem& item, uint64_t fingerprint) const;
  void check_all_done_were_met(int64_t met) const;
  void fill(DatasetReader& reader);
  Result<OpenAiRequest> parse(const DatasetItem& item);
  void start(DatasetItem item, uint64_t fingerprint);
  bool submit_pending();
  void on_event(const TokenEvent& event);
  void finish(int64_t key, std::optional<Error> error);
  void cancel(InFlight& entry);
  void cancel_all();

  Engine& engine_;
  const TextModel& model_;
  BatchOptions options_;
  BatchOutput* output_;
  OnResult on_result_;
  std::shared_ptr<EventQueue> events_ = std::make_shared<EventQueue>();  // the engine holds it, too
  std::unordered_map<int64_t, InFlight> in_flight_;                      // by item index
  std::unordered_map<RequestId, int64_t> item_of_request_;
  std::optional<int64_t> pending_;  // item whose requests did not all fit into the submit queue
  RequestId next_id_ = 1;
  int64_t num_met_done_ = 0;  // items of the data set that `output_` has from earlier runs
  std::set<std::string> ignored_columns_;
  bool input_ended_ = false;
  bool was_interrupted_ = false;
  ServingStats stats_;
};

}  // namespace nanoflow
