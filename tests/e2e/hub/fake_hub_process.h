// A running fake_hub.py, and what every test of downloads needs.
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "base/log.h"
#include "base/test_folder.h"
#include "formats/hub.h"

namespace nanoflow {

/// One request that a fake server saw.
struct SeenRequest {
  std::string server;  ///< "hub" or "cdn"
  std::string method;
  std::string path;
  std::string range;
  std::string authorization;
  int64_t sent = 0;  ///< bytes of the body
};

/// Starts the server; the destructor ends it.
class FakeHub {
 public:
  FakeHub();
  ~FakeHub();
  FakeHub(const FakeHub&) = delete;
  FakeHub& operator=(const FakeHub&) = delete;

  [[nodiscard]] std::string endpoint() const;
  /// See fake_hub.py; `json` is the message.
  void control(const std::string& json);
  [[nodiscard]] std::vector<SeenRequest> log();

 private:
  [[nodiscard]] std::string ask(const std::string& request) const;

  pid_t child_ = -1;
  int to_child_ = -1;
  int hub_port_ = 0;
};

/// A fake hub shared by the suite's tests, and an empty cache for each.
class HubTest : public ::testing::Test {
 public:
  static void SetUpTestSuite();
  static void TearDownTestSuite();

 protected:
  FakeHub& hub() { return *hub_; }
  /// Repository "org/model": config.json, a tokenizer, and model.safetensors of `bytes` noise.
  void serve_model(int64_t bytes, const std::string& faults = "[]", const std::string& more = "");
  /// Small parts, short pauses.
  [[nodiscard]] HubSettings settings();
  PullResult pull(const PullOptions& options = {}) { return pull(settings(), options); }
  PullResult pull(const HubSettings& settings, const PullOptions& options = {});
  /// The message of the exception that pull() throws; "" and a failure when it does not.
  std::string error_of_pull(const HubSettings& settings, const PullOptions& options = {});
  std::string error_of_pull() { return error_of_pull(settings()); }
  /// Requests of `server` whose method is `method` and whose path contains `part`.
  std::vector<SeenRequest> seen(const std::string& server, const std::string& method,
                                const std::string& part = "");
  /// Bytes of bodies that both servers sent for files.
  int64_t bytes_sent();
  /// Names below blobs/ that are no finished blob.
  std::vector<std::string> leftovers();

  const TestFolder folder_;
  const std::filesystem::path cache_ = folder_.path();
  Logger logger_{LogLevel::kOff};

 private:
  static FakeHub* hub_;
};

}  // namespace nanoflow
