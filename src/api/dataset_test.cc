#include "api/dataset.h"

#include <unistd.h>

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

/// A file that is gone after the test.
class DatasetFile : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path file(std::string_view content) const {
    write_file_atomically(folder_ / "data", content);
    return folder_ / "data";
  }
  [[nodiscard]] std::vector<DatasetItem> read(std::string_view content) const {
    DatasetReader reader(file(content));
    std::vector<DatasetItem> items;
    while (auto item = reader.next()) items.push_back(std::move(*item));
    EXPECT_EQ(reader.count(), static_cast<int64_t>(items.size()));
    EXPECT_FALSE(reader.next().has_value());
    return items;
  }
  const TestFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

void expect_error(const DatasetItem& item, std::string_view words, std::string_view param = "") {
  ASSERT_FALSE(item.body.has_value()) << item.body->dump();
  EXPECT_NE(item.body.error().message.find(words), std::string::npos) << item.body.error().message;
  EXPECT_EQ(item.body.error().param, param);
}

TEST(DatasetLine, Prompt) {
  const DatasetItem item = parse_dataset_line(4, R"({"prompt": "hi", "max_tokens": 3})");
  EXPECT_EQ(item.index, 4);
  EXPECT_EQ(item.custom_id, "request-4");
  EXPECT_EQ(item.endpoint, Endpoint::kCompletions);
  ASSERT_TRUE(item.body.has_value());
  EXPECT_EQ(item.body->find("max_tokens")->as_int(), 3);
}

TEST(DatasetLine, Messages) {
  const DatasetItem item =
      parse_dataset_line(0, R"({"messages": [{"role": "user", "content": "hi"}], "prompt": null})");
  EXPECT_EQ(item.endpoint, Endpoint::kChatCompletions);
  ASSERT_TRUE(item.body.has_value());
  EXPECT_EQ(item.body->find("messages")->as_array().size(), 1u);
  // A "url" alone makes no batch request.
  EXPECT_TRUE(parse_dataset_line(0, R"({"prompt": "x", "url": "y"})").body.has_value());
  // A field that is null is no field.
  EXPECT_EQ(parse_dataset_line(0, R"({"messages": null, "prompt": "x"})").endpoint,
            Endpoint::kCompletions);
}

TEST(DatasetLine, ColumnsThatNameTheItemAreNoFields) {
  const DatasetItem item =
      parse_dataset_line(0, R"({"prompt": "p", "id": 3, "custom_id": "c", "x": 1})");
  EXPECT_TRUE(item.is_record);
  EXPECT_EQ(item.body->dump(), R"({"prompt":"p","x":1})");
  EXPECT_FALSE(parse_dataset_line(0, R"({"url": "/v1/completions", "body": {}})").is_record);
}

TEST(DatasetLine, BatchRequests) {
  DatasetItem item = parse_dataset_line(
      0,
      R"({"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "p"}})");
  EXPECT_EQ(item.custom_id, "c");
  EXPECT_EQ(item.endpoint, Endpoint::kCompletions);
  ASSERT_TRUE(item.body.has_value());
  EXPECT_EQ(item.body->dump(), R"({"prompt":"p"})");
  item = parse_dataset_line(0, R"({"url": "/v1/chat/completions", "body": {}})");
  EXPECT_EQ(item.endpoint, Endpoint::kChatCompletions);
  EXPECT_TRUE(item.body.has_value());
}

TEST(DatasetLine, BadBatchRequestsNameTheField) {
  expect_error(parse_dataset_line(0, R"({"method": "GET", "url": "/v1/completions", "body": {}})"),
               "POST", "method");
  expect_error(parse_dataset_line(0, R"({"method": 7, "url": "/v1/completions", "body": {}})"),
               "POST", "method");
  for (const char* line : {R"({"body": {}})", R"({"body": {}, "url": 7})"})
    expect_error(parse_dataset_line(0, line), "\"url\" string", "url");
  expect_error(parse_dataset_line(0, R"({"body": {}, "url": "/v1/embeddings"})"),
               "/v1/embeddings is not supported", "url");
  for (const char* line :
       {R"({"url": "/v1/completions"})", R"({"url": "/v1/completions", "body": null})",
        R"({"url": "/v1/completions", "body": []})", R"({"url": "/v1/completions", "body": "x"})"})
    expect_error(parse_dataset_line(0, line), "\"body\" object", "body");
  // Even then the line's own id is kept, so that the answer can be matched.
  EXPECT_EQ(parse_dataset_line(3, R"({"custom_id": "mine", "body": {}})").custom_id, "mine");
}

TEST(DatasetLine, Ids) {
  EXPECT_EQ(parse_dataset_line(0, R"({"id": "x", "prompt": ""})").custom_id, "x");
  EXPECT_EQ(parse_dataset_line(0, R"({"id": 17, "prompt": ""})").custom_id, "17");
  EXPECT_EQ(parse_dataset_line(0, R"({"id": "x", "custom_id": "y", "prompt": ""})").custom_id, "y");
  for (const char* id : {"null", "1.5", "[]", "{}", "true"})
    EXPECT_EQ(parse_dataset_line(2, std::string(R"({"prompt": "", "id": )") + id + "}").custom_id,
              "request-2");
}

TEST(DatasetLine, ALineThatCannotBeReadKeepsItsId) {
  const DatasetItem item = parse_dataset_line(
      3, R"({"id": "x", "custom_id": "job-7", "body": {"prompt": "half \ud800 a pair"}})");
  EXPECT_EQ(item.custom_id, "job-7");
  EXPECT_EQ(item.index, 3);
  expect_error(item, "body.prompt: \\ud800 is half of a surrogate pair");
  EXPECT_EQ(parse_dataset_line(3, R"({"prompt": NaN, "id": 5})").custom_id, "5");
  EXPECT_EQ(parse_dataset_line(3, R"({"custom_id": "\ud800", "prompt": ""})").custom_id,
            "request-3");
  const std::string filler(DatasetReader::kMaxLineBytes, 'x');
  EXPECT_EQ(parse_dataset_line(3, R"({"custom_id": "long", "prompt": ")" + filler).custom_id,
            "long");
}

TEST(DatasetLine, BadLinesAreErrorsOfTheirOwn) {
  for (const char* line :
       {"", "{", "{}}", "{\"prompt\": \"\xff\"}", R"({"prompt": "\ud800"})", "x"})
    expect_error(parse_dataset_line(0, line), "invalid JSON");
  expect_error(parse_dataset_line(0, "[1]"), "must be a JSON object, not array");
  expect_error(parse_dataset_line(0, "7"), "must be a JSON object, not integer");
  expect_error(parse_dataset_line(0, "{}"), "needs \"prompt\"");
  expect_error(parse_dataset_line(0, R"({"text": "x"})"), "needs \"prompt\"");
  expect_error(parse_dataset_line(0, std::string(100'000, '[')), "invalid JSON");
}

TEST(DatasetLine, ShareGptVariants) {
  const auto messages = [](std::string_view turns) {
    const DatasetItem item =
        parse_dataset_line(0, std::string(R"({"conversations": )").append(turns).append("}"));
    EXPECT_EQ(item.endpoint, Endpoint::kChatCompletions);
    return item.body.has_value() ? item.body->find("messages")->dump() : item.body.error().message;
  };
  EXPECT_EQ(messages(R"([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])"),
            R"([{"role":"user","content":"q"}])");
  EXPECT_EQ(messages(R"([{"from": "system", "value": "s"}, {"from": "user", "value": "q"}])"),
            R"([{"role":"system","content":"s"},{"role":"user","content":"q"}])");
  // Conversations that were cut so that they start with an answer.
  EXPECT_EQ(messages(R"([{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}])"),
            R"([{"role":"user","content":"q"}])");
  EXPECT_EQ(messages(R"([7, {}, {"from": 1}, {"from": "human"}, {"from": "human", "value": "q"}])"),
            R"([{"role":"user","content":"q"}])");
  for (const char* turns : {"[]", "[{\"from\": \"gpt\", \"value\": \"a\"}]", "[null]"})
    EXPECT_EQ(messages(turns), "has no human turn");
  EXPECT_EQ(messages("7"), "needs a \"conversations\" array");
}

TEST_F(DatasetFile, LinesKeepTheirIndex) {
  const auto items = read("\n{\"prompt\": \"a\"}\r\n  \t\r\n\nnot json\r\n{\"prompt\": \"b\"}");
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[0].index, 1);
  EXPECT_EQ(items[1].index, 4);
  EXPECT_EQ(items[2].index, 5);
  EXPECT_EQ(items[2].custom_id, "request-5");
  EXPECT_TRUE(items[0].body.has_value());
  expect_error(items[1], "invalid JSON");
  EXPECT_TRUE(items[2].body.has_value());
}

TEST_F(DatasetFile, AByteOrderMarkIsSkipped) {
  EXPECT_TRUE(read("\xEF\xBB\xBF{\"prompt\": \"a\"}\n")[0].body.has_value());
  const auto items =
      read("\xEF\xBB\xBF [{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}]}]");
  ASSERT_EQ(items.size(), 1u);
  EXPECT_TRUE(items[0].body.has_value());
  // Bytes that only begin like one are not dropped.
  EXPECT_THROW(DatasetReader(file("\xEF\xBB{\"prompt\": \"a\"}")), FormatError);
  EXPECT_THROW(DatasetReader(file("\xEF")), FormatError);
}

TEST_F(DatasetFile, ArraysHoldAnyOfTheFormats) {
  const auto items = read(R"( [{"id": "s", "conversations": [{"from": "human", "value": "q"}]},
    {"prompt": "p"}, {"messages": []}, 7, {"id": 3}])");
  ASSERT_EQ(items.size(), 5u);
  EXPECT_EQ(items[0].custom_id, "s");
  EXPECT_EQ(items[0].endpoint, Endpoint::kChatCompletions);
  EXPECT_EQ(items[1].endpoint, Endpoint::kCompletions);
  EXPECT_EQ(items[1].index, 1);
  EXPECT_EQ(items[2].endpoint, Endpoint::kChatCompletions);
  expect_error(items[3], "must be a JSON object, not integer");
  expect_error(items[4], "needs \"prompt\"");
  EXPECT_EQ(items[4].custom_id, "3");
  EXPECT_TRUE(read("[]").empty());
}

TEST_F(DatasetFile, OtherFilesAreRefused) {
  for (const char* content : {"", "\n \n", "hello", "\"text\"", "<html>", "[{]", "[1", "7"})
    EXPECT_THROW(DatasetReader(file(content)), FormatError) << content;
  EXPECT_THROW(DatasetReader(folder_ / "absent"), IoError);
  EXPECT_THROW(DatasetReader{folder_}, IoError);
}

TEST_F(DatasetFile, AMalformedFirstLineFailsAloneLikeAnyOther) {
  const auto items = read("garbage\n{\"prompt\": \"a\"}\n");
  ASSERT_EQ(items.size(), 2u);
  expect_error(items[0], "invalid JSON");
  EXPECT_TRUE(items[1].body.has_value());
  EXPECT_EQ(items[1].index, 1);
}

TEST_F(DatasetFile, AnEmptyFileIsCalledEmpty) {
  for (const char* content : {"", "\n \n", "\xEF\xBB\xBF"}) {
    try {
      const DatasetReader reader(file(content));
      ADD_FAILURE() << content;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("is empty"), std::string::npos) << error.what();
    }
  }
}

TEST_F(DatasetFile, AFileThatShrinksIsAnError) {
  const auto path =
      file("{\"prompt\": \"a\"}\n" + std::string(1 << 20, ' ') + "\n{\"prompt\": \"b\"}\n");
  DatasetReader reader(path);
  EXPECT_EQ(reader.count(), 2);
  std::filesystem::resize_file(path, 0);
  EXPECT_TRUE(reader.next().has_value());
  EXPECT_THROW((void)reader.next(), IoError);
}

/// A pipe that the test writes to.
class DatasetPipe : public DatasetFile {
 protected:
  void SetUp() override {
    DatasetFile::SetUp();
    ASSERT_EQ(::pipe(ends_), 0);
  }
  void TearDown() override {
    ::close(ends_[0]);
    close_writer();
    DatasetFile::TearDown();
  }
  [[nodiscard]] std::string path() const { return "/dev/fd/" + std::to_string(ends_[0]); }
  void write(std::string_view text) {
    ASSERT_EQ(::write(ends_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void close_writer() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }
  int ends_[2] = {-1, -1};
};

TEST_F(DatasetPipe, LinesAreServedAsTheyCome) {
  DatasetReader reader(path());
  EXPECT_FALSE(reader.is_regular());
  EXPECT_EQ(reader.count(), 0);
  EXPECT_FALSE(reader.ready());
  write("\xEF\xBB");
  EXPECT_FALSE(reader.ready());
  write("\xBF\n{\"prompt\": ");
  EXPECT_TRUE(reader.ready()) << "the blank line";
  write("\"a\"}\n{\"pro");
  EXPECT_EQ(reader.next()->index, 1);
  EXPECT_FALSE(reader.ready());
  write("mpt\": \"b\"}");
  EXPECT_FALSE(reader.ready()) << "more may come";
  close_writer();
  EXPECT_TRUE(reader.ready());
  EXPECT_TRUE(reader.next()->body.has_value());
  EXPECT_FALSE(reader.next().has_value());
}

TEST_F(DatasetPipe, AnArrayIsServedWhenItHasEnded) {
  DatasetReader reader(path());
  write(" \n[{\"prompt\": \"a\"},\n");
  EXPECT_FALSE(reader.ready());
  write("{\"prompt\": \"b\"}]");
  EXPECT_FALSE(reader.ready());
  close_writer();
  EXPECT_TRUE(reader.ready());
  EXPECT_EQ(reader.next()->index, 0);
  EXPECT_EQ(reader.next()->index, 1);
  EXPECT_FALSE(reader.next().has_value());
}

TEST_F(DatasetPipe, AnEmptyOneIsAnError) {
  DatasetReader reader(path());
  close_writer();
  EXPECT_THROW((void)reader.ready(), FormatError);
}

TEST_F(DatasetFile, HugeLinesAreRefusedAndTheNextOneIsRead) {
  std::string content = R"({"prompt": ")";
  content.append(static_cast<size_t>(DatasetReader::kMaxLineBytes), 'x');
  content += "\"}\n{\"prompt\": \"b\"}\n";
  const auto items = read(content);
  ASSERT_EQ(items.size(), 2u);
  expect_error(items[0], "the line is longer than 64 MiB");
  EXPECT_TRUE(items[1].body.has_value());
  EXPECT_EQ(items[1].index, 1);
}

}  // namespace
}  // namespace nanoflow
