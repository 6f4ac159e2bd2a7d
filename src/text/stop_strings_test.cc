#include "text/stop_strings.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> index;
};

/// The definition, on the whole text: earliest end, then longest.
Outcome naive(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      const size_t n = stops[i].size();
      if (n > end || text.compare(end - n, n, stops[i]) != 0) continue;
      if (!best || n > stops[*best].size()) best = i;
    }
    if (best) return {text.substr(0, include ? end : end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

TEST(StopStrings, WithoutStopsAllPasses) {
  StopStrings none;
  EXPECT_EQ(none.push("abc"), "abc");
  EXPECT_EQ(none.finish(), "");
  EXPECT_FALSE(none.stopped());
}

TEST(StopStrings, HoldsBackWhatMayBecomeAStop) {
  StopStrings stops = *StopStrings::create({"\n\nUser:"});
  EXPECT_EQ(stops.push("Hi\n"), "Hi");
  EXPECT_EQ(stops.push("\n"), "");
  EXPECT_EQ(stops.push("\n"), "\n");
  EXPECT_EQ(stops.push("User"), "");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.push(": x"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.matched(), "\n\nUser:");
  EXPECT_EQ(stops.push("more"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStrings, FinishGivesWhatWasHeld) {
  StopStrings stops = *StopStrings::create({"END"});
  EXPECT_EQ(stops.push("the EN"), "the ");
  EXPECT_EQ(stops.finish(), "EN");
}

TEST(StopStrings, PartsThatMayNotStopAreOnlyText) {
  StopStrings stops = *StopStrings::create({"aba"});
  EXPECT_EQ(stops.push("xaba", false), "xab");
  EXPECT_EQ(stops.push("b"), "");
  EXPECT_EQ(stops.push("a"), "");
  EXPECT_TRUE(stops.stopped()) << "a stop that began in the first part";
}

TEST(StopStrings, RefusesEmptyAndInvalid) {
  EXPECT_EQ(StopStrings::create({"a", ""}).error().param, "stop");
  EXPECT_EQ(StopStrings::create({"\xFF"}).error().code, ErrorCode::kInvalidArgument);
}

TEST(StopStrings, EqualsASearchOverTheWholeText) {
  std::mt19937 rng(5);
  const auto word = [&](size_t n) {
    std::string s;
    for (size_t i = 0; i < n; ++i) s += static_cast<char>('a' + rng() % 2);
    return s;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> list;
    for (size_t i = 0; i < 1 + rng() % 3; ++i) list.push_back(word(1 + rng() % 7));
    const bool include = rng() % 2 == 0;
    const std::string text = word(rng() % 40);
    StopStrings stops = *StopStrings::create(list, include);
    std::string got;
    for (size_t pos = 0; pos < text.size();) {
      const size_t n = std::min<size_t>(text.size() - pos, rng() % 5);
      got += stops.push(text.substr(pos, n));
      pos += n;
      // Nothing shown may have to be taken back.
      ASSERT_TRUE(naive(text, list, include).text.starts_with(got));
    }
    got += stops.finish();
    const Outcome want = naive(text, list, include);
    ASSERT_EQ(got, want.text) << text;
    ASSERT_EQ(stops.stopped(), want.index.has_value());
    if (want.index) {
      ASSERT_EQ(stops.matched(), list[*want.index]);
    }
  }
}

TEST(StopStrings, LongStopsStayLinear) {
  StopStrings stops = *StopStrings::create({std::string(100000, 'a') + "b"});
  const std::string text(1000000, 'a');
  std::string got;
  for (size_t pos = 0; pos < text.size(); pos += 1000) got += stops.push(text.substr(pos, 1000));
  EXPECT_EQ(got + stops.finish(), text);
}

}  // namespace
}  // namespace nanoflow
