#include "formats/gguf.h"

#include <sys/resource.h>
#include <filesystem>
#include <limits>

#include <gtest/gtest.h>

#include "formats/format_error_test.h"
#include "formats/gguf_test_writer.h"

namespace nanoflow {
namespace {

template <typename Parse>
void expect_refused(Parse&& parse, std::string_view words, std::string_view name = "input") {
  EXPECT_EQ(format_testing::refusal_problem(parse, words, name), "");
}

using format_testing::as_bytes;
using format_testing::GgufTestFile;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ8_0 = 8;

void refuses(const GgufTestFile& file, std::string_view words) {
  const std::string bytes = file.bytes();
  expect_refused([&] { GgufFile(as_bytes(bytes), "input"); }, words);
}

/// One of everything.
GgufTestFile sample() {
  GgufTestFile file;
  file.key("general.alignment", format_testing::kUint32).number<uint32_t>(32);
  file.key("text", format_testing::kString).text("hello");
  file.key("words", format_testing::kArray)
      .number<uint32_t>(format_testing::kString)
      .number<uint64_t>(2);
  file.metadata.text("a").text("bc");
  file.key("numbers", format_testing::kArray)
      .number<uint32_t>(format_testing::kInt16)
      .number<uint64_t>(2);
  file.metadata.number<int16_t>(-1).number<int16_t>(7);
  file.tensor("a", {4, 2}, kF32, 0).tensor("b", {32}, kQ8_0, 32);
  file.data = std::string(32 + 34, '\1');
  return file;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  const std::string bytes = sample().bytes();
  const GgufFile file(as_bytes(bytes), "input");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.keys(),
            (std::vector<std::string>{"general.alignment", "text", "words", "numbers"}));
  EXPECT_EQ(file.find_int("general.alignment"), 32);
  EXPECT_EQ(file.find_string("text"), "hello");
  EXPECT_EQ(*file.find_strings("words"), (std::vector<std::string_view>{"a", "bc"}));
  EXPECT_EQ(*file.find_ints("numbers"), (std::vector<int64_t>{-1, 7}));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.find_tensor("a")->shape, (std::vector<int64_t>{2, 4}));  // outermost first
  EXPECT_EQ(file.find_tensor("a")->bytes.size(), 32u);
  EXPECT_EQ(file.find_tensor("b")->bytes.data(), as_bytes(bytes).data() + bytes.size() - 34);
  EXPECT_EQ(file.find_tensor("c"), nullptr);
  EXPECT_EQ(file.find("absent"), nullptr);
  EXPECT_EQ(file.find_int("absent"), std::nullopt);
}

TEST(Gguf, ReadsWhatThePythonPackageWrites) {
  const GgufFile file(std::filesystem::path(NANOFLOW_FIXTURES "/gguf/quants.gguf"));
  EXPECT_EQ(file.find_int("test.u8"), 255);
  EXPECT_EQ(file.find_int("test.i8"), -128);
  EXPECT_EQ(file.find_int("test.u16"), 65535);
  EXPECT_EQ(file.find_int("test.i16"), -32768);
  EXPECT_EQ(file.find_int("test.u32"), 4294967295);
  EXPECT_EQ(file.find_int("test.i32"), -2147483648LL);
  EXPECT_EQ(file.find_int("test.u64"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(file.find_int("test.i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file.find_double("test.f32"), 0.5);
  EXPECT_EQ(file.find_double("test.f64"), 0.1);
  EXPECT_EQ(file.find_double("test.u8"), 255.0);  // integers are numbers, too
  EXPECT_EQ(file.find_bool("test.bool"), true);
  EXPECT_EQ(file.find_string("test.string"), "Grüße");
  EXPECT_EQ(*file.find_ints("test.ints"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(*file.find_doubles("test.floats"), (std::vector<double>{0.5, -1.5}));
  EXPECT_EQ(*file.find_strings("test.strings"), (std::vector<std::string_view>{"a", "", "世界"}));
  const auto& bools = std::get<GgufValue::Array>(file.find("test.bools")->value);
  ASSERT_EQ(bools.size(), 2u);
  EXPECT_TRUE(std::get<bool>(bools[0].value));
  EXPECT_FALSE(std::get<bool>(bools[1].value));
  EXPECT_EQ(file.tensors().size(), 20u);
  file.drop_pages(file.tensors()[0]);
  EXPECT_EQ(file.tensors()[0].shape, (std::vector<int64_t>{4, 256}));
}

TEST(Gguf, TypedLookUpsNameTheKeyOfAnotherType) {
  const std::string bytes = sample().bytes();
  const GgufFile file(as_bytes(bytes), "input");
  expect_refused([&] { (void)file.find_int("text"); }, "text is not an integer");
  expect_refused([&] { (void)file.find_double("text"); }, "text is not a number");
  expect_refused([&] { (void)file.find_bool("text"); }, "text is not a boolean");
  expect_refused([&] { (void)file.find_string("words"); }, "words is not a string");
  expect_refused([&] { (void)file.find_ints("words"); }, "words is not a list of integers");
  expect_refused([&] { (void)file.find_doubles("words"); }, "words is not a list of numbers");
  expect_refused([&] { (void)file.find_strings("numbers"); }, "numbers is not a list of strings");
}

TEST(Gguf, TruncatedAnywhereIsRefused) {
  const std::string bytes = sample().bytes();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // A copy of its own, so that a sanitizer sees reads past the end.
    const std::vector<std::byte> part(as_bytes(bytes).begin(),
                                      as_bytes(bytes).begin() + static_cast<int64_t>(size));
    SCOPED_TRACE(size);
    expect_refused([&] { GgufFile(part, "input"); }, "");
  }
}

TEST(Gguf, EveryFlippedByteIsReadOrRefused) {
  const std::string original = sample().bytes();
  int refused = 0;
  for (size_t i = 0; i < original.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = original;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      try {
        const GgufFile file(as_bytes(bytes), "input");
        EXPECT_EQ(file.tensors().size(), 2u);
      } catch (const FormatError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 300);  // of the header; the data may hold anything
}

TEST(Gguf, RefusesOtherFilesAndVersions) {
  GgufTestFile file;
  file.magic = "GGML";
  refuses(file, "is no GGUF file");
  file = {};
  for (const uint32_t version : {0u, 1u, 4u, 99u}) {
    file.version = version;
    refuses(file, "is not supported (2 and 3 are)");
  }
  file.version = 0x03000000;
  refuses(file, "big-endian");
}

TEST(Gguf, RefusesCountsThatTheFileCannotHold) {
  GgufTestFile file = sample();
  file.num_keys = 5;
  refuses(file, "");
  file.num_keys = std::numeric_limits<int64_t>::max();
  refuses(file, "");
  file = sample();
  file.num_tensors = std::numeric_limits<int64_t>::max();
  refuses(file, "a tensor name");  // where the data begins
}

TEST(Gguf, HugeDeclaredSizesAllocateNothing) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they map terabytes
  const rlimit limited{rlim_t{4} << 30, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limited), 0);
#endif
  for (const uint64_t size : {kHuge, uint64_t{1} << 62, uint64_t{1} << 40, uint64_t{1} << 33}) {
    for (const uint32_t kind :
         {format_testing::kUint8, format_testing::kBool, format_testing::kString,
          format_testing::kArray, format_testing::kFloat32, format_testing::kFloat64,
          format_testing::kInt64}) {
      GgufTestFile file;
      file.key("k", format_testing::kArray).number(kind).number(size);
      file.metadata.raw(std::string(64, '\0'));
      refuses(file, "k: declares");
    }
    GgufTestFile text;
    text.key("k", format_testing::kString).number(size);
    refuses(text, "ends inside k");
    GgufTestFile key;
    key.keys = 1;
    key.metadata.number(size);
    refuses(key, "ends inside a metadata key");
    GgufTestFile tensor;
    refuses(tensor.tensor("t", {32, size / 32}, kQ8_0, 0), "t");
  }
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
}

TEST(Gguf, RefusesBadMetadata) {
  GgufTestFile file;
  file.key("k", 13);
  refuses(file, "k: unknown value type 13");
  file = {};
  file.key("k", format_testing::kArray).number<uint32_t>(99).number<uint64_t>(0);
  refuses(file, "k: unknown value type 99");
  file = {};
  file.key("k", format_testing::kUint64).number(kHuge);
  refuses(file, "is out of range");
  file = {};
  file.key("k", format_testing::kUint8).number<uint8_t>(1);
  file.key("k", format_testing::kUint8).number<uint8_t>(2);
  refuses(file, "metadata key k appears twice");
  file = {};
  file.key("", format_testing::kUint8).number<uint8_t>(1);
  refuses(file, "a metadata key has 0 bytes");
  file = {};
  file.key(std::string(65536, 'x'), format_testing::kUint8).number<uint8_t>(1);
  refuses(file, "a metadata key has 65536 bytes");
  file = {};
  file.key("two\nlines" + std::string(1000, 'x'), 77);
  refuses(file, "two\\x0alines");
}

TEST(Gguf, NestingHasALimit) {
  for (const int depth : {2, 4, 5, 1000}) {
    GgufTestFile file;
    file.key("k", format_testing::kArray);
    for (int i = 1; i < depth; ++i)
      file.metadata.number<uint32_t>(format_testing::kArray).number<uint64_t>(1);
    file.metadata.number<uint32_t>(format_testing::kInt32).number<uint64_t>(1).number<int32_t>(5);
    if (depth <= 4) {
      const std::string bytes = file.bytes();
      EXPECT_NE(GgufFile(as_bytes(bytes), "input").find("k"), nullptr);
    } else {
      refuses(file, "k: arrays are nested too deeply");
    }
  }
}

TEST(Gguf, RefusesBadTensors) {
  const auto with = [](std::initializer_list<uint64_t> dims, uint32_t type, uint64_t offset) {
    GgufTestFile file;
    file.data = std::string(64, '\0');
    return file.tensor("t", dims, type, offset);
  };
  refuses(with({}, kF32, 0), "tensor t: 0 dimensions");
  refuses(with({1, 1, 1, 1, 1}, kF32, 0), "tensor t: 5 dimensions");
  refuses(with({0}, kF32, 0), "impossible dimension 0");
  refuses(with({kHuge}, kF32, 0), "impossible dimension");
  refuses(with({uint64_t{1} << 32, uint64_t{1} << 32}, kF32, 0), "impossible dimension");
  refuses(with({uint64_t{1} << 62}, kF32, 0), "");
  refuses(with({31}, kQ8_0, 0), "rows of 31 are no whole Q8_0 blocks");
  refuses(with({17}, kF32, 0), "lies outside the file");
  refuses(with({1}, kF32, 64), "lies outside the file");
  refuses(with({1}, kF32, kHuge - 31), "lies outside the file");
  refuses(with({1}, kF32, 4), "lies outside the file (offset 4");  // not aligned
  GgufTestFile twice = with({1}, kF32, 0);
  refuses(twice.tensor("t", {1}, kF32, 32), "tensor t appears twice");
  GgufTestFile overlap = with({16}, kF32, 0);
  refuses(overlap.tensor("u", {1}, kF32, 32), "tensors t and u overlap");
  GgufTestFile unnamed;
  refuses(unnamed.tensor("", {1}, kF32, 0), "a tensor name has 0 bytes");
}

TEST(Gguf, AlignmentIsTheFilesOwn) {
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufTestFile file;
    file.key("general.alignment", format_testing::kUint32).number(alignment);
    file.alignment = alignment;
    file.tensor("t", {1}, kF32, 0).data = "\1\2\3\4";
    const std::string bytes = file.bytes();
    EXPECT_EQ(GgufFile(as_bytes(bytes), "input").tensors()[0].bytes.data(),
              as_bytes(bytes).data() + bytes.size() - 4);
  }
  for (const uint32_t alignment : {0u, 3u, 33u, 1u << 21, 1u << 31}) {
    GgufTestFile file;
    file.key("general.alignment", format_testing::kUint32).number(alignment);
    refuses(file, "general.alignment is");
  }
  GgufTestFile text;
  text.key("general.alignment", format_testing::kString).text("32");
  refuses(text, "general.alignment is not an integer");
}

TEST(Gguf, UnknownTensorTypesAreRefusedOnlyOnUse) {
  GgufTestFile file;
  file.tensor("odd", {7}, 39, kHuge).tensor("good", {1}, kF32, 0).data = std::string(4, '\0');
  const std::string bytes = file.bytes();
  const GgufFile read(as_bytes(bytes), "input");
  EXPECT_EQ(ggml_type_name(read.find_tensor("odd")->type), "type 39");
  EXPECT_FALSE(ggml_block(read.find_tensor("odd")->type).has_value());
  EXPECT_TRUE(read.find_tensor("odd")->bytes.empty());
  EXPECT_EQ(read.find_tensor("good")->bytes.size(), 4u);
}

TEST(Gguf, MissingFilesAndFoldersAreIoErrors) {
  EXPECT_THROW(GgufFile(std::filesystem::path("/nonexistent/x.gguf")), IoError);
  EXPECT_THROW(GgufFile(std::filesystem::path(NANOFLOW_FIXTURES)), IoError);
}

}  // namespace
}  // namespace nanoflow
