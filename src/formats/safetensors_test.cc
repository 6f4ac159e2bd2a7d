#include "formats/safetensors.h"

#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/test_folder.h"
#include "formats/format_error_test.h"

namespace nanoflow {
namespace {

template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  EXPECT_EQ(format_testing::refusal_problem(parse, words, name), "");
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string file_of(std::string_view header, std::string_view data, int64_t size = -1) {
  const uint64_t declared = size < 0 ? header.size() : static_cast<uint64_t>(size);
  std::string bytes(reinterpret_cast<const char*>(&declared), sizeof(declared));
  return bytes.append(header).append(data);
}

/// A file whose only tensor is "t" with these members.
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets,
                size_t data_bytes = 8) {
  return file_of(
      fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets),
      std::string(data_bytes, '\0'));
}

void refuses(const std::string& file, std::string_view words) {
  SCOPED_TRACE(file.substr(8, 200));
  expect_refused([&] { (void)parse_safetensors(bytes_of(file), "input"); }, words);
}

constexpr std::string_view kTwo =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})";

/// A folder that is gone after the test.
class SafetensorsFolder : public ::testing::Test {
 protected:
  void write(std::string_view name, std::string_view content) const {
    write_file_atomically(folder_ / name, content);
  }
  void write_tensor(std::string_view file, const std::string& name) const {
    const std::string data(4, '\7');
    write_safetensors(folder_ / file, {{name, DType::kF32, {1}, bytes_of(data)}});
  }
  void write_index(std::string_view map) const {
    write("model.safetensors.index.json", fmt::format(R"({{"weight_map":{}}})", map));
  }
  void refuses_folder(std::string_view words) const {
    expect_refused([&] { SafetensorsSet set(folder_); }, words, folder_.string());
  }
  const TestFolder temporary_;
  const std::filesystem::path folder_ = temporary_.path();
};

TEST(Safetensors, ReadsEntries) {
  const std::string file = file_of(kTwo, "12345678abcdef");
  const auto entries = parse_safetensors(bytes_of(file), "input");
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].dtype, DType::kF32);
  EXPECT_EQ(entries[0].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(entries[0].bytes.data(), bytes_of(file).data() + 8 + kTwo.size());
  EXPECT_EQ(entries[1].dtype, DType::kBF16);
  EXPECT_EQ(entries[1].bytes.size(), 6u);
}

TEST(Safetensors, ScalarsAndEmptyTensorsAreTensors) {
  const std::string scalar = one("\"I64\"", "[]", "[0,8]");
  EXPECT_TRUE(parse_safetensors(bytes_of(scalar), "input")[0].shape.empty());
  const std::string empty = one("\"F32\"", "[0,9223372036854775807]", "[8,8]");
  EXPECT_TRUE(parse_safetensors(bytes_of(empty), "input")[0].bytes.empty());
  EXPECT_TRUE(parse_safetensors(bytes_of(file_of("{}   ", "")), "input").empty());
}

TEST(Safetensors, TruncatedAnywhereIsRefused) {
  const std::string file = file_of(kTwo, "12345678abcdef");
  for (size_t size = 0; size < file.size(); ++size) {
    const std::vector<std::byte> part(bytes_of(file).begin(),
                                      bytes_of(file).begin() + static_cast<int64_t>(size));
    SCOPED_TRACE(size);
    expect_refused([&] { (void)parse_safetensors(part, "input"); }, "");
  }
}

TEST(Safetensors, HeaderLengthsThatLieAreRefused) {
  refuses(file_of("{}", "", 0), "header: ");
  refuses(file_of("{}", "", 1), "header: ");
  refuses(file_of("{}", "", 3), "ends inside the header (3 bytes wanted, 2 left)");
  refuses(file_of("{}", "", 100'000'000), "ends inside the header");
  refuses(file_of("{}", "", 100'000'001), "this is no safetensors file");
  refuses(file_of("{}", "", std::numeric_limits<int64_t>::max()), "this is no safetensors file");
  refuses(std::string(8, '\xff') + "{}", "this is no safetensors file");
}

TEST(Safetensors, HeadersThatAreNoTableAreRefused) {
  for (const char* header : {"", "[]", "null", "7", "{", "{\"a\":1}{", "{\"\xff\":1}"})
    refuses(file_of(header, ""), "header: ");
  refuses(file_of(R"({"t":7})", ""), "tensor t: has no dtype");
  refuses(file_of(R"({"t":null})", ""), "tensor t: has no dtype");
  refuses(file_of(std::string(2000, '['), ""), "header: ");
}

TEST(Safetensors, EveryFieldIsChecked) {
  refuses(one("7", "[2]", "[0,8]"), "tensor t: has no dtype");
  refuses(one("null", "[2]", "[0,8]"), "tensor t: has no dtype");
  for (const char* shape : {"2", "null", "[-1]", "[1.5]", "[\"2\"]", "[[2]]", "{}", "[1e3]"})
    refuses(one("\"F32\"", shape, "[0,8]"), "its shape is no list of sizes");
  for (const char* offsets : {"8", "null", "[0]", "[0,8,8]", "[-1,8]", "[0,8.0]", "[]", "{}"})
    refuses(one("\"F32\"", "[2]", offsets), "its data_offsets are no pair");
  for (const char* offsets : {"[8,0]", "[0,9]", "[9,9]", "[1,9223372036854775807]"})
    refuses(one("\"F32\"", "[2]", offsets), "lie outside the 8 bytes of data");
  refuses(one("\"F32\"", "[2]", "[0,4]"), "F32 [2] needs 8 bytes, but its offsets span 4");
  refuses(one("\"BF16\"", "[2]", "[0,8]"), "BF16 [2] needs 4 bytes, but its offsets span 8");
  refuses(one("\"F32\"", "[4294967296,4294967296]", "[0,8]"), "its shape is impossibly large");
  refuses(one("\"F32\"", "[9223372036854775807]", "[0,8]"), "its shape is impossibly large");
  refuses(one("\"F32\"", "[288230376151711744]", "[0,0]"), "its shape is impossibly large");
}

TEST(Safetensors, TensorsNeitherRepeatNorOverlap) {
  const std::string entry = R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  refuses(file_of(fmt::format(R"({{"a":{0},"a":{0}}})", entry), "1234"), "tensor a appears twice");
  refuses(file_of(fmt::format(R"({{"a":{},"b":{}}})", entry,
                              R"({"dtype":"U8","shape":[4],"data_offsets":[3,7]})"),
                  "1234567"),
          "tensors a and b overlap");
}

TEST(Safetensors, NamesInMessagesStayOnOneShortLine) {
  refuses(file_of(fmt::format(R"({{"two\nlines{}":7}})", std::string(5000, 'x')), ""),
          "two\\x0alines");
}

TEST(Safetensors, UnknownTypesAreRefusedOnlyOnUse) {
  const std::string unknown = one("\"F4_E2M1\"", "[16]", "[0,8]");
  const auto entries = parse_safetensors(bytes_of(unknown), "input");
  EXPECT_EQ(entries[0].stored_dtype, "F4_E2M1");
  EXPECT_FALSE(entries[0].dtype.has_value());
  const std::string f64 = one("\"F64\"", "[1]", "[0,8]");
  EXPECT_FALSE(parse_safetensors(bytes_of(f64), "input")[0].dtype.has_value());
  refuses(one("\"F64\"", "[2]", "[0,8]"), "F64 [2] needs 16 bytes");
  // Nobody can know how many bytes it needs, but whoever prints the shape may multiply it out.
  refuses(one("\"F4\"", "[4294967296,4294967296]", "[0,8]"), "its shape is impossibly large");
}

TEST_F(SafetensorsFolder, WhatIsWrittenIsRead) {
  const std::string a = "12345678";
  const std::string b = "xy";
  write_safetensors(folder_ / "model.safetensors", {{"a", DType::kF32, {2, 1}, bytes_of(a)},
                                                    {"b \"q\"", DType::kU8, {2}, bytes_of(b)},
                                                    {"none", DType::kBF16, {0, 3}, {}}});
  const SafetensorsSet set(folder_);
  ASSERT_EQ(set.entries().size(), 3u);
  EXPECT_EQ(set.find("a")->shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(std::memcmp(set.find("b \"q\"")->bytes.data(), "xy", 2), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(set.find("a")->bytes.data()) % 8, 0u);
  EXPECT_EQ(set.find("absent"), nullptr);
  set.drop_pages(*set.find("a"));
  EXPECT_EQ(std::memcmp(set.find("a")->bytes.data(), "12345678", 8), 0);
}

TEST_F(SafetensorsFolder, ShardsComeFromTheIndex) {
  write_tensor("x-1.safetensors", "a");
  write_tensor("x-2.safetensors", "b");
  write_tensor("unrelated.safetensors", "a");
  write_index(R"({"a":"x-1.safetensors","b":"x-2.safetensors"})");
  const SafetensorsSet set(folder_);
  EXPECT_EQ(set.entries().size(), 2u);
  EXPECT_NE(set.find("b"), nullptr);
}

TEST_F(SafetensorsFolder, IndexesThatLieAreRefused) {
  write_tensor("1.safetensors", "a");
  write_tensor("2.safetensors", "b");
  write_tensor("3.safetensors", "a");
  write("model.safetensors.index.json", "{");
  refuses_folder("invalid JSON");
  for (const char* text : {"[]", "{}", R"({"weight_map":7})"}) {
    write("model.safetensors.index.json", text);
    refuses_folder("has no weight_map object");
  }
  write_index(R"({"a":7})");
  refuses_folder("a: its shard is no string");
  for (const char* shard : {"", "/etc/passwd", "../1.safetensors", "x\\u0000y"}) {
    write_index(fmt::format(R"({{"a":"{}"}})", shard));
    refuses_folder("a: bad shard name");
  }
  write_index(R"({"a":"1.safetensors","b":"1.safetensors"})");
  refuses_folder("tensor b is not in 1.safetensors");
  write_index(R"({"a":"2.safetensors","b":"1.safetensors"})");
  refuses_folder("tensor a is not in 2.safetensors");
  write_index(R"({"a":"1.safetensors","b":"3.safetensors"})");
  refuses_folder("tensor a is in another shard, too");
}

TEST_F(SafetensorsFolder, MissingFilesAreIoErrors) {
  EXPECT_THROW(SafetensorsSet(folder_ / "absent"), IoError);
  try {
    const SafetensorsSet set(folder_);
    ADD_FAILURE();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("has neither model.safetensors nor"),
              std::string::npos);
  }
  write_tensor("1.safetensors", "a");
  write_index(R"({"a":"1.safetensors","b":"2.safetensors"})");
  try {
    const SafetensorsSet set(folder_);
    ADD_FAILURE();
  } catch (const IoError& error) {
    EXPECT_NE(
        std::string(error.what()).find("2.safetensors: this shard of the checkpoint is missing"),
        std::string::npos);
  }
  write_index(R"({"a":".."})");
  EXPECT_THROW(SafetensorsSet{folder_}, IoError);
  // A name too long for the file system is an error of the path, not a crash of its inspection.
  EXPECT_THROW(SafetensorsSet{folder_ / std::string(5000, 'x')}, IoError);
}

}  // namespace
}  // namespace nanoflow
