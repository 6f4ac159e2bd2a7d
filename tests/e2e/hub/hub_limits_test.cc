// Waiting, stopping and what is refused before or while bytes arrive.
#include <atomic>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>

#include "base/mmap.h"
#include "fake_hub_process.h"

namespace nanoflow {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using SteadyTime = std::chrono::steady_clock;

class HubLimits : public HubTest {};

TEST_F(HubLimits, ACompleteCacheCanBePreferred) {
  serve_model(1000);
  const PullResult first = pull();
  const size_t requests = hub().log().size();
  PullOptions options;
  options.prefer_cache = true;
  EXPECT_EQ(pull(options).path, first.path);
  EXPECT_EQ(hub().log().size(), requests) << "the hub was asked";
  std::filesystem::remove(first.path / "model.safetensors");
  EXPECT_EQ(pull(options).path, first.path);
  EXPECT_TRUE(std::filesystem::exists(first.path / "model.safetensors"));
  EXPECT_GT(hub().log().size(), requests);
}

TEST_F(HubLimits, AMovedBranchIsFollowedUnlessTheCacheIsPreferred) {
  serve_model(1000);
  const PullResult first = pull();
  serve_model(2000);
  PullOptions options;
  options.prefer_cache = true;
  EXPECT_EQ(pull(options).commit, first.commit);
  const PullResult second = pull();
  EXPECT_NE(second.commit, first.commit);
  EXPECT_EQ(second.bytes_received, 2000) << "the small files are those of the first commit";
  EXPECT_EQ(pull(options).commit, second.commit);
}

TEST_F(HubLimits, ACancelIsHeardDuringAPause) {
  serve_model(1000, R"([{"match": "/api/", "times": -1, "do": "status", "status": 500}])");
  HubSettings patient = settings();
  patient.retry_delay_ms = 20'000;
  std::atomic<bool> cancel = false;
  PullOptions options;
  options.cancel = &cancel;
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    cancel = true;
  });
  const auto start = SteadyTime::now();
  EXPECT_THAT(error_of_pull(patient, options), HasSubstr("interrupted"));
  EXPECT_LT(SteadyTime::now() - start, std::chrono::seconds(5));
  canceller.join();
}

TEST_F(HubLimits, PartsOfTwoContentsAreNeverMixed) {
  // No checksum is known here, so that nothing but the ETag can tell.
  hub().control(R"({"reset": true,
      "faults": [{"match": "GET .*resolve", "times": 2, "do": "none"},
                 {"match": "GET .*resolve", "times": -1, "do": "etag", "value": "\"v2\""}],
      "repos": {"org/model": {"files": {"model.safetensors": {
          "size": 300000, "lfs": false, "checksum": false, "etag": "v1"}}}}})");
  EXPECT_THAT(error_of_pull(), HasSubstr("changed on the hub during the download"));
  EXPECT_FALSE(std::filesystem::exists(cache_ / "models--org--model" / "blobs" / "v1"));
}

TEST_F(HubLimits, WithoutAChecksumTheSizeMustDo) {
  hub().control(R"({"reset": true, "repos": {"org/model": {"files": {"model.safetensors": {
      "size": 300000, "lfs": false, "checksum": false, "etag": "v1"}}}}})");
  const PullResult result = pull();
  EXPECT_EQ(std::filesystem::file_size(result.path / "model.safetensors"), 300'000u);
}

TEST_F(HubLimits, SizesThatOnlyTheFileTellsAreHeldToTheDiskToo) {
  hub().control(R"({"reset": true, "repos": {"org/model": {"files": {"model.safetensors": {
      "size": 1000, "listed_size": -1, "linked_size": 562949953421312}}}}})");
  EXPECT_THAT(error_of_pull(), HasSubstr("the download needs 512.0 TiB more"));
}

TEST_F(HubLimits, SizesBeyondReasonCountAsUnknown) {
  serve_model(1000, "[]", R"(, "x.safetensors": {"size": 10, "listed_size": 9223372036854775807},
                              "y.safetensors": {"size": 10, "listed_size": -5})");
  const PullResult result = pull();
  EXPECT_EQ(std::filesystem::file_size(result.path / "x.safetensors"), 10u);
}

TEST_F(HubLimits, RedirectsInACircleEnd) {
  hub().control(R"({"reset": true, "repos": {"org/model": {"moved": "org/model", "files": {}}}})");
  EXPECT_THAT(error_of_pull(), HasSubstr("too many redirects"));
}

TEST_F(HubLimits, SeveralGgufFilesMakeAPersonChoose) {
  hub().control(R"({"reset": true, "repos": {"org/model": {"files": {
      "m-Q4_K_M.gguf": {"size": 1000}, "m-Q8_0.gguf": {"size": 2000}}}}})");
  EXPECT_THAT(error_of_pull(), AllOf(HasSubstr("m-Q4_K_M.gguf"), HasSubstr("m-Q8_0.gguf")));
  PullOptions options;
  options.include = {"*Q4_K_M.gguf"};
  const PullResult result = pull(options);
  EXPECT_TRUE(std::filesystem::exists(result.path / "m-Q4_K_M.gguf"));
  EXPECT_FALSE(std::filesystem::exists(result.path / "m-Q8_0.gguf"));
}

}  // namespace
}  // namespace nanoflow
