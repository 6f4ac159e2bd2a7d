// Bodies and connections that go wrong: the file in the cache is right in the end, or the message
// says why not.
#include <sys/wait.h>
#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/mmap.h"
#include "fake_hub_process.h"
#include "formats/hub_checksum.h"

namespace nanoflow {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kBytes = 1'000'003;  // 16 parts, the last one odd

class HubFaults : public HubTest {
 protected:
  /// The pulled weights are what the server has.
  void expect_sound(const PullResult& result) {
    const std::filesystem::path file = result.path / "model.safetensors";
    ASSERT_TRUE(std::filesystem::exists(file));
    EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(file)), kBytes);
    // The blob's name is the sum that the server states.
    EXPECT_EQ(sha256_of_file(file), std::filesystem::read_symlink(file).filename().string());
    EXPECT_EQ(read_file(result.path / "config.json"), "{}");
    EXPECT_THAT(leftovers(), IsEmpty());
  }
};

TEST_F(HubFaults, NoneAtAll) {
  serve_model(kBytes);
  HubProgress last;
  PullOptions options;
  options.on_progress = [&](const HubProgress& progress) {
    EXPECT_GE(progress.bytes_done, last.bytes_done);
    EXPECT_LE(progress.bytes_done, progress.bytes_total);
    last = progress;
  };
  const PullResult result = pull(options);
  expect_sound(result);
  EXPECT_EQ(result.bytes_received, kBytes + 2 + 12);
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_EQ(last.bytes_total, kBytes + 2 + 12);
  EXPECT_EQ(last.files_done, 3);
  EXPECT_EQ(last.files_total, 3);
  EXPECT_EQ(bytes_sent(), kBytes + 2 + 12) << "nothing is sent twice";
  EXPECT_EQ(seen("cdn", "GET").size(), 16u) << "one request a part";
}

TEST_F(HubFaults, SecondPullSendsNothing) {
  serve_model(kBytes);
  const PullResult first = pull();
  const int64_t sent = bytes_sent();
  const PullResult second = pull();
  EXPECT_EQ(second.path, first.path);
  EXPECT_EQ(second.bytes_received, 0);
  EXPECT_EQ(bytes_sent(), sent);
}

TEST_F(HubFaults, TruncatedBodiesGoOnWhereTheyEnded) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 9, "do": "truncate",
                           "after": 20000}])");
  expect_sound(pull());
  EXPECT_LT(bytes_sent(), kBytes + 1000);
}

TEST_F(HubFaults, ALineThatKeepsBreakingGetsThereAsLongAsBytesCome) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "truncate",
                           "after": 9000}])");
  expect_sound(pull());  // eight tries a part, twice as many as without a byte
}

TEST_F(HubFaults, BodiesShorterThanAskedGoOn) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 9, "do": "short",
                           "after": 30000}])");
  expect_sound(pull());
}

TEST_F(HubFaults, ConnectionsThatResetAreTriedAgain) {
  serve_model(
      kBytes,
      R"([{"match": "/api/", "do": "reset"}, {"match": "HEAD .*model.safetensors", "do": "reset"},
                          {"match": "GET .*signature", "times": 5, "do": "reset"}])");
  expect_sound(pull());
}

TEST_F(HubFaults, ServerErrorsAreTriedAgain) {
  serve_model(kBytes, R"([{"match": "/api/", "do": "status", "status": 500},
                          {"match": "HEAD .*model.safetensors", "times": 2, "do": "status", "status": 503},
                          {"match": "GET .*signature", "times": 5, "do": "status", "status": 502}])");
  expect_sound(pull());
}

TEST_F(HubFaults, TooManyRequestsWaitsAsLongAsTheServerAsks) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 1, "do": "status", "status": 429,
                           "headers": {"Retry-After": "1"}}])");
  const auto start = std::chrono::steady_clock::now();
  expect_sound(pull());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(990));
}

TEST_F(HubFaults, AnEndlessRateLimitGivesUp) {
  serve_model(kBytes, R"([{"match": "/api/", "times": -1, "do": "status", "status": 429,
                           "headers": {"Retry-After": "4000"}}])");
  EXPECT_THAT(error_of_pull(), HasSubstr("limits the rate of requests"));
}

TEST_F(HubFaults, IgnoredRangesMeanOneConnection) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "no_range"}])");
  expect_sound(pull());
}

TEST_F(HubFaults, IgnoredRangesAndALostConnectionStartAgain) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 4, "do": "no_range"},
                          {"match": "GET .*signature", "times": 1, "do": "truncate", "after": 900},
                          {"match": "GET .*signature", "times": -1, "do": "no_range"}])");
  HubSettings one = settings();
  one.connections = 1;
  expect_sound(pull(one));
}

TEST_F(HubFaults, AnotherRangeThanAskedIsRefused) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "wrong_range"}])");
  EXPECT_THAT(error_of_pull(), HasSubstr("asked for bytes from"));
}

TEST_F(HubFaults, OneWrongChecksumIsFetchedAgain) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 1, "do": "corrupt"}])");
  expect_sound(pull());
}

TEST_F(HubFaults, AWrongSmallFileIsNoticedToo) {
  serve_model(kBytes, R"([{"match": "GET .*config.json", "times": 1, "do": "corrupt"}])");
  expect_sound(pull());
}

TEST_F(HubFaults, AChecksumThatStaysWrongIsAnError) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "corrupt"}])");
  EXPECT_THAT(error_of_pull(), HasSubstr("model.safetensors of org/model: the checksum"));
  EXPECT_THAT(leftovers(), IsEmpty()) << "what is wrong must not be taken up again";
  EXPECT_FALSE(std::filesystem::exists(cache_ / "models--org--model" / "refs" / "main"));
}

TEST_F(HubFaults, SlowIsNotBroken) {
  hub().control(R"({"reset": true,
      "faults": [{"match": "GET .*txt", "times": -1, "do": "trickle", "bytes": 10, "pause_s": 0.02}],
      "repos": {"org/model": {"files": {"vocab.txt": {"text": "01234567890123456789012345678901234"},
                                        "model.safetensors": {"size": 10}}}}})");
  EXPECT_EQ(read_file(pull().path / "vocab.txt").size(), 35u);
}

TEST_F(HubFaults, ASilentConnectionIsDroppedAndTriedAgain) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 1, "do": "stall", "after": 0,
                           "pause_s": 6}])");
  const auto start = std::chrono::steady_clock::now();
  expect_sound(pull());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(6));
}

TEST_F(HubFaults, ExpiredSignaturesAreRenewed) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 1, "do": "none"},
                          {"match": "GET .*signature", "times": 3, "do": "status", "status": 403}])");
  expect_sound(pull());
  EXPECT_GE(seen("hub", "HEAD", "model.safetensors").size(), 2u);
}

TEST_F(HubFaults, AFileThatNeverComesKeepsTheOthers) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "reset"}])");
  HubSettings one = settings();
  one.connections = 1;
  EXPECT_THAT(error_of_pull(one), HasSubstr("gave up after 4 tries in a row"));
  serve_model(kBytes);
  const PullResult result = pull(one);
  expect_sound(result);
  EXPECT_EQ(result.bytes_received, kBytes) << "config.json and tokenizer.json had arrived";
}

TEST_F(HubFaults, CancelKeepsWhatHasArrived) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "trickle", "bytes": 8192,
                           "pause_s": 0.02}])");
  std::atomic<bool> cancel{false};
  PullOptions options;
  options.cancel = &cancel;
  options.on_progress = [&](const HubProgress& progress) {
    if (progress.bytes_done > 200'000) cancel = true;
  };
  const std::string error = error_of_pull(settings(), options);
  EXPECT_THAT(error, HasSubstr("interrupted"));
  EXPECT_THAT(error, HasSubstr("run the same command again"));
  serve_model(kBytes);
  const PullResult result = pull();
  expect_sound(result);
  EXPECT_LT(result.bytes_received, kBytes - 150'000);
}

TEST_F(HubFaults, AKilledProcessIsTakenUpAgain) {
  constexpr int64_t kBig = 12'000'000;  // several megabytes a part: less is noted only at ends
  serve_model(kBig, R"([{"match": "GET .*signature", "times": -1, "do": "trickle",
                         "bytes": 65536, "pause_s": 0.01}])");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("HF_ENDPOINT", hub().endpoint().c_str(), 1);
    ::setenv("HF_HUB_CACHE", cache_.c_str(), 1);
    ::execl(NANOFLOW_HUB_PULL, "hub_pull", "org/model", "main", "4000000", nullptr);
    ::_exit(127);
  }
  for (int i = 0; i < 1000 && bytes_sent() < 7'000'000; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "it was to die before it was done";
  EXPECT_FALSE(leftovers().empty());
  serve_model(kBig);
  const PullResult result = pull();
  const std::filesystem::path file = result.path / "model.safetensors";
  EXPECT_EQ(sha256_of_file(file), std::filesystem::read_symlink(file).filename().string());
  EXPECT_LT(result.bytes_received, kBig - 3'000'000) << "two parts, a megabyte each may be lost";
  EXPECT_THAT(leftovers(), IsEmpty());
}

TEST_F(HubFaults, DamagedStateOfAnEarlierRunIsNotTrusted) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "truncate",
                           "after": 0}])");
  (void)error_of_pull();
  const std::filesystem::path blobs = cache_ / "models--org--model" / "blobs";
  for (const std::string& name : leftovers()) {
    if (!name.ends_with(".parts")) continue;
    std::fstream state(blobs / name, std::ios::in | std::ios::out | std::ios::binary);
    state.seekp(32);  // behind the header: claims that the first part is complete
    const int64_t done = 64 << 10;
    state.write(reinterpret_cast<const char*>(&done), sizeof done);
  }
  serve_model(kBytes);
  expect_sound(pull());
}

TEST_F(HubFaults, ContentThatChangedBetweenRunsIsNotMixed) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": 10, "do": "none"},
                          {"match": "GET .*signature", "times": -1, "do": "reset"}])");
  (void)error_of_pull();
  hub().control(R"({"reset": true, "repos": {"org/model": {"files": {
      "config.json": {"text": "{}"}, "model.safetensors": {"size": 1000003, "seed": 8}}}}})");
  const PullResult result = pull();
  const std::filesystem::path file = result.path / "model.safetensors";
  EXPECT_EQ(sha256_of_file(file), std::filesystem::read_symlink(file).filename().string());
}

TEST_F(HubFaults, AnEtagThatContradictsTheListingIsRefused) {
  serve_model(10, "[]",
              R"(, "x.safetensors": {"size": 10, "etag":
                 "0000000000000000000000000000000000000000000000000000000000000000"})");
  EXPECT_THAT(error_of_pull(), HasSubstr("x.safetensors of org/model: the hub lists"));
}

TEST_F(HubFaults, ASizeThatContradictsTheListingIsRefused) {
  serve_model(10, "[]", R"(, "x.safetensors": {"size": 10, "listed_size": 11})");
  EXPECT_THAT(error_of_pull(), HasSubstr("the hub lists 11 bytes"));
}

TEST_F(HubFaults, WhatCannotFitIsToldBeforeTheFirstByte) {
  serve_model(10, "[]", R"(, "x.safetensors": {"size": 10, "listed_size": 562949953421312})");
  EXPECT_THAT(error_of_pull(), HasSubstr("the download needs 512.0 TiB more"));
  EXPECT_EQ(seen("hub", "HEAD").size(), 0u);
}

TEST_F(HubFaults, EmptyFilesAndEqualFiles) {
  serve_model(1000, "[]",
              R"(, "a.txt": {"text": ""}, "b.txt": {"text": ""},
                 "c.txt": {"size": 300000, "seed": 1}, "d.txt": {"size": 300000, "seed": 1})");
  const PullResult result = pull();
  for (const char* name : {"a.txt", "b.txt"}) EXPECT_EQ(read_file(result.path / name), "");
  EXPECT_EQ(read_file(result.path / "c.txt"), read_file(result.path / "d.txt"));
  EXPECT_LT(bytes_sent(), 400'000) << "equal content is fetched once";
}

TEST_F(HubFaults, TwoProcessesShareOneDownload) {
  serve_model(kBytes, R"([{"match": "GET .*signature", "times": -1, "do": "trickle",
                           "bytes": 16384, "pause_s": 0.02}])");
  PullResult other;
  std::thread thread([&] { other = pull(); });
  const PullResult mine = pull();
  thread.join();
  expect_sound(mine);
  expect_sound(other);
  EXPECT_LT(bytes_sent(), kBytes + 1000);
}

}  // namespace
}  // namespace nanoflow
