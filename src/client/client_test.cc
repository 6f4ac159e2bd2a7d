// The parts of the load client that need no network.
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "client/arrivals.h"
#include "client/sse_splitter.h"
#include "client/stream_event.h"

namespace nanoflow {
namespace {

double variation(const std::vector<double>& times) {
  double sum = 0, squares = 0, before = 0;
  for (const double time : times) {
    sum += time - before;
    squares += (time - before) * (time - before);
    before = time;
  }
  const auto n = static_cast<double>(times.size());
  return std::sqrt(squares / n - sum / n * (sum / n)) / (sum / n);
}

TEST(Arrivals, KeepTheRateAndTheBurstiness) {
  for (const double burstiness : {0.25, 1.0, 16.0}) {
    const std::vector<double> times = arrival_times(40000, 50, burstiness, 1);
    EXPECT_NEAR(times.back(), 800, 1e-6);
    // A gamma distribution's coefficient of variation is 1 / sqrt(shape).
    EXPECT_NEAR(variation(times), 1 / std::sqrt(burstiness), 0.05 / std::sqrt(burstiness));
  }
}

TEST(Arrivals, AllAtOnceAndRepeatable) {
  EXPECT_EQ(arrival_times(3, HUGE_VAL, 1, 0), (std::vector<double>{0, 0, 0}));
  EXPECT_TRUE(arrival_times(0, 5, 1, 0).empty());
  EXPECT_EQ(arrival_times(9, 5, 1, 7), arrival_times(9, 5, 1, 7));
  EXPECT_NE(arrival_times(9, 5, 1, 7), arrival_times(9, 5, 1, 8));
}

TEST(SseSplitter, EveryCutGivesTheSameEvents) {
  const std::string text =
      ": ping\ndata: {\"a\":1}\n\nevent: x\r\ndata:two\r\n\r\ndata: [DONE]\n\n";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    SseSplitter splitter;
    std::vector<std::string> events;
    const auto add = [&](std::string_view data) { events.emplace_back(data); };
    EXPECT_TRUE(splitter.feed(std::string_view(text).substr(0, cut), add));
    EXPECT_TRUE(splitter.feed(std::string_view(text).substr(cut), add));
    EXPECT_EQ(events, (std::vector<std::string>{"{\"a\":1}", "two", "[DONE]"})) << cut;
  }
}

TEST(SseSplitter, LinesEndSometime) {
  SseSplitter splitter;
  const std::string piece(SseSplitter::kMaxLineBytes / 2, 'x');
  const auto ignore = [](std::string_view) {};
  EXPECT_TRUE(splitter.feed(piece, ignore));
  EXPECT_TRUE(splitter.feed(piece, ignore));
  EXPECT_FALSE(splitter.feed("x", ignore));
}

TEST(StreamEvent, KindsAreToldApart) {
  using Kind = StreamEvent::Kind;
  EXPECT_EQ(read_stream_event(R"({"id":"x","choices":[{"text":"a"}]})").kind, Kind::kToken);
  EXPECT_EQ(read_stream_event(R"({"choices" : [ {"text":"\"choices\":[]"}]})").kind, Kind::kToken);
  EXPECT_EQ(read_stream_event("[DONE]").kind, Kind::kDone);
  const StreamEvent usage = read_stream_event(
      R"({"choices": [ ], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})");
  EXPECT_EQ(usage.kind, Kind::kUsage);
  EXPECT_EQ(usage.prompt_tokens, 7);
  EXPECT_EQ(usage.completion_tokens, 3);
  EXPECT_EQ(read_stream_event(R"({"choices":[],"usage":null})").completion_tokens, -1);
  const StreamEvent error = read_stream_event(R"({"error":{"message":"out of luck"}})");
  EXPECT_EQ(error.kind, Kind::kError);
  EXPECT_EQ(error.error, "out of luck");
  EXPECT_EQ(read_stream_event("nonsense").error, "nonsense");
  EXPECT_EQ(error_message(R"({"error":"plain"})"), "plain");
  EXPECT_EQ(error_message(R"({"message":"vllm's older form"})"), "vllm's older form");
}

}  // namespace
}  // namespace nanoflow
