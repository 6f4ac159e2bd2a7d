// Fetching a list of files over several connections: who fetches what, retries, verification.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "formats/hub_cache.h"
#include "formats/hub_part_file.h"
#include "formats/hub_remote.h"

namespace nanoflow {

/// Counts what arrives and tells it on, at most ten times a second. Thread-safe.
class TransferMeter {
 public:
  TransferMeter(HubProgress start, std::function<void(const HubProgress&)> tell);

  void received(int64_t bytes);  ///< from the network
  void adjust(int64_t bytes);    ///< found on the disk, or (negative) given up again
  void file_done();
  void report(bool force);
  [[nodiscard]] int64_t received_bytes() const { return received_; }
  [[nodiscard]] HubProgress now();

 private:
  struct Sample {
    int64_t time_ns;
    int64_t bytes;
  };

  SteadyClock clock_;
  std::function<void(const HubProgress&)> tell_;
  std::atomic<int64_t> received_{0};
  std::atomic<int64_t> done_;
  std::atomic<int64_t> told_ns_;
  std::mutex mutex_;
  HubProgress progress_;
  std::deque<Sample> samples_;
};

/// One download of one snapshot's files. run() once.
class HubTransfer {
 public:
  struct Job {
    const HubSettings& settings;
    const HubRemote& remote;
    const HubCache& cache;
    std::string repo_id;
    std::string commit;
    std::vector<HubFile> files;  ///< what the snapshot lacks
    const std::atomic<bool>* cancel = nullptr;
  };

  /// The job's references and `meter` must outlive this object.
  HubTransfer(Job job, TransferMeter& meter);
  ~HubTransfer();

  /// Returns when every file is in the snapshot. Throws what stopped it: NetworkError, IoError.
  void run();

 private:
  struct File;
  struct Task;
  enum class PartEnd : uint8_t { kComplete, kRangeIgnored };

  void work();
  std::optional<Task> next_task();
  void open(HttpSession& session, File& file);
  bool claim(const std::string& etag);
  void finish(File& file);
  void fetch(HttpSession& session, File& file, size_t part);
  PartEnd fetch_part(HttpSession& session, File& file, size_t part);
  HubResponse request_part(HttpSession& session, File& file, size_t part, const std::string& url,
                           bool& range_ignored);
  bool accept_start(File& file, size_t part, const HubResponse& response);
  void renew_url(HttpSession& session, File& file, const std::string& expired);
  std::string url_of(File& file);
  void complete(File& file);
  bool verify(File& file);
  void restart(File& file, int64_t part_bytes);
  void check_served_etag(File& file, const HubResponse& response);
  [[nodiscard]] static bool has_checksum(const File& file);
  [[nodiscard]] bool stopped() const;
  [[noreturn]] void throw_changed(const File& file);
  [[noreturn]] void throw_interrupted();
  [[noreturn]] void throw_given_up(const File& file, const HubResponse& response);

  Job job_;
  TransferMeter& meter_;
  std::vector<std::unique_ptr<File>> files_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards what follows, and the scheduling fields of files
  std::condition_variable changed_;
  size_t next_unopened_ = 0;
  size_t num_done_ = 0;
  std::set<std::string> claimed_;  // etags under way
  std::exception_ptr error_;
};

}  // namespace nanoflow
