// A data set through an engine whose device is made of arrays.
#include "api/batch_runner.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"
#include "engine/fake_runner.h"

namespace nanoflow {
namespace {

class BatchRunnerTest : public testing::Test {
 protected:
  void SetUp() override { start_engine(); }

  void start_engine() {
    EngineConfig config;
    config.max_num_batched_tokens = 32;
    config.max_num_seqs = 8;
    auto runner = std::make_unique<fake::FakeRunner>(fake::small_limits(), config.max_num_seqs);
    runner->on_launch = [this](const StepBatch& /*batch*/) {
      if (on_launch_) on_launch_();
    };
    engine_ = std::make_unique<Engine>(config, std::move(runner), clock_, logger_);
    model_.name = "fake";
    model_.limits = engine_->limits();
  }

  static std::string item(int first, std::string_view members = "\"max_tokens\": 4") {
    return fmt::format("{{\"prompt\": [{}, 2, 3], \"ignore_eos\": true, {}}}\n", first, members);
  }
  static std::string items(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += item(i);
    return text;
  }

  /// Serves `data` into the output file.
  void serve(const std::string& data, BatchOutput::Mode mode = BatchOutput::Mode::kCreate) {
    write_file_atomically(input_, data);
    DatasetReader reader(input_);
    BatchOutput output(output_, mode, true);
    BatchRunner runner(*engine_, model_, options_, &output, [this](const BatchResult& result) {
      ++num_results_;
      if (on_result_) on_result_(result);
    });
    if (check_first_) {
      DatasetReader again(input_);
      runner.check_resumed(again);
    }
    runner.run(reader, interrupted_);
    failed_ = runner.stats().failed();
    stats_ = runner.stats();
  }
  [[nodiscard]] std::vector<Json> lines() const {
    std::vector<Json> lines;
    const std::string content = read_file(output_);
    for (size_t begin = 0; begin < content.size();) {
      const size_t end = content.find('\n', begin);
      lines.push_back(*parse_json(content.substr(begin, end - begin)));
      begin = end + 1;
    }
    return lines;
  }
  static int64_t status(const Json& line) {
    return line.find("response")->find("status_code")->as_int();
  }
  static int64_t num_tokens(const Json& line) {
    return line.find("response")->find("body")->find("usage")->find("completion_tokens")->as_int();
  }

  const TestFolder folder_;
  const std::filesystem::path input_ = folder_ / "in";
  const std::filesystem::path output_ = folder_ / "out";
  std::atomic<bool> interrupted_{false};
  std::function<void()> on_launch_;
  std::function<void(const BatchResult&)> on_result_;
  BatchOptions options_;
  bool check_first_ = true;
  int64_t num_results_ = 0;
  int64_t failed_ = 0;
  ServingStats stats_;
  TextModel model_;
  SteadyClock clock_;
  Logger logger_{LogLevel::kOff};
  std::unique_ptr<Engine> engine_;
};

TEST_F(BatchRunnerTest, ARequestOfManySequencesIsOneRequest) {
  serve("{\"prompt\": [[1, 2, 3], [4, 5]], \"n\": 2, \"max_tokens\": 4, \"ignore_eos\": true}\n");
  EXPECT_EQ(stats_.requests(), 1);
  EXPECT_EQ(stats_.prompt_tokens(), 5) << "as its usage says";
  EXPECT_EQ(stats_.output_tokens(), 16);
}

TEST_F(BatchRunnerTest, TheRunsLimitGivesWayToTheContext) {
  options_.defaults = Json::object({{"max_tokens", 199}});
  serve(
      "{\"prompt\": [1, 2, 3], \"ignore_eos\": true}\n"
      "{\"prompt\": [1, 2, 3], \"ignore_eos\": true, \"max_tokens\": 199}\n");
  EXPECT_EQ(num_tokens(lines()[0]), 197);
  EXPECT_EQ(status(lines()[1]), 400) << "what the request itself asks for is not cut";
}

TEST_F(BatchRunnerTest, ServesEveryItemInOrder) {
  serve(items(30));
  const std::vector<Json> result = lines();
  ASSERT_EQ(result.size(), 30u);
  for (size_t i = 0; i < result.size(); ++i) {
    EXPECT_EQ(status(result[i]), 200);
    EXPECT_EQ(result[i].find("custom_id")->as_string(), fmt::format("request-{}", i));
    EXPECT_EQ(num_tokens(result[i]), 4);
  }
  EXPECT_EQ(num_results_, 30);
}

TEST_F(BatchRunnerTest, ABadItemFailsAlone) {
  serve(item(1) + "{nonsense\n" + item(2, "\"temperature\": -1") + item(5000) +
        item(3, "\"stream\": true") + item(4));
  std::vector<int64_t> codes;
  for (const Json& line : lines()) codes.push_back(status(line));
  EXPECT_EQ(codes, (std::vector<int64_t>{200, 400, 400, 400, 400, 200}));
  EXPECT_EQ(failed_, 4);
}

TEST_F(BatchRunnerTest, NullIsAbsentForDefaults) {
  options_.defaults = Json::object({{"max_tokens", 3}});
  serve(item(1, "\"max_tokens\": null") + item(2, "\"n\": 1") + item(3, "\"max_tokens\": 5"));
  EXPECT_EQ(num_tokens(lines()[0]), 3);
  EXPECT_EQ(num_tokens(lines()[1]), 3);
  EXPECT_EQ(num_tokens(lines()[2]), 5);
}

TEST_F(BatchRunnerTest, ColumnsWithoutEffectAreToldOnce) {
  std::vector<std::string> columns;
  options_.on_ignored_column = [&](const std::string& name) { columns.push_back(name); };
  serve(item(1, "\"answer\": 1, \"temprature\": 0") + item(2, "\"answer\": 2"));
  EXPECT_EQ(columns, (std::vector<std::string>{"answer", "temprature"}));
  EXPECT_EQ(failed_, 0);
}

TEST_F(BatchRunnerTest, AnEngineThatDiesCostsNoRequest) {
  int steps = 0;
  on_launch_ = [&] {
    if (++steps == 12) throw EnvironmentError("the device is gone");
  };
  EXPECT_THROW(serve(items(40)), EnvironmentError);
  for (const Json& line : lines()) EXPECT_EQ(status(line), 200);
  const size_t served = lines().size();
  EXPECT_LT(served, 40u);
  EXPECT_EQ(num_results_, static_cast<int64_t>(served));
  on_launch_ = nullptr;
  start_engine();
  serve(items(40), BatchOutput::Mode::kResume);
  EXPECT_EQ(lines().size(), 40u);
}

TEST_F(BatchRunnerTest, InterruptedAndResumed) {
  options_.max_in_flight = 8;  // else all 40 may end in one batch of events
  on_result_ = [&](const BatchResult& /*result*/) { interrupted_ = num_results_ >= 5; };
  serve(items(40));
  const auto served = static_cast<int64_t>(lines().size());
  EXPECT_GE(served, 5);
  EXPECT_LT(served, 40);
  interrupted_ = false;
  on_result_ = nullptr;
  num_results_ = 0;
  serve(items(40), BatchOutput::Mode::kResume);
  EXPECT_EQ(num_results_, 40 - served);
  ASSERT_EQ(lines().size(), 40u);
  for (size_t i = 0; i < 40; ++i)
    EXPECT_EQ(lines()[i].find("custom_id")->as_string(), fmt::format("request-{}", i));
}

TEST_F(BatchRunnerTest, FailedItemsAreServedAgain) {
  serve(item(1) + item(2, "\"temperature\": -1"));
  num_results_ = 0;
  serve(item(1) + item(2), BatchOutput::Mode::kResume);
  EXPECT_EQ(num_results_, 1);
  ASSERT_EQ(lines().size(), 2u);
  EXPECT_EQ(status(lines()[1]), 200);
}

TEST_F(BatchRunnerTest, AnotherDataSetIsNotMixedIn) {
  serve(items(3));
  const std::string before = read_file(output_);
  for (const bool check_first : {true, false}) {
    check_first_ = check_first;
    EXPECT_THROW(serve(item(7) + item(1) + item(2), BatchOutput::Mode::kResume), FormatError);
    EXPECT_THROW(serve(items(2), BatchOutput::Mode::kResume), FormatError) << "it is shorter";
    model_.name = "another";
    EXPECT_THROW(serve(items(3), BatchOutput::Mode::kResume), FormatError);
    model_.name = "fake";
    options_.defaults = Json::object({{"temperature", 0.5}});
    EXPECT_THROW(serve(items(3), BatchOutput::Mode::kResume), FormatError);
    options_.defaults = {};
    EXPECT_EQ(read_file(output_), before);
  }
}

}  // namespace
}  // namespace nanoflow
