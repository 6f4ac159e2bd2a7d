#include "backend/cuda/gemm_table.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_folder.h"

namespace nanoflow::cuda {
namespace {

GemmEntry entry(int64_t rows, int64_t n, uint64_t mark) {
  GemmEntry e{.rows = rows,
              .n = n,
              .k = 64,
              .dtype = DType::kBF16,
              .out_dtype = DType::kBF16,
              .algorithm = {},
              .microseconds = 12.5,
              .default_microseconds = 13};
  e.algorithm = {mark, 0xffffffffffffffffU, 0, 1, 2, 3, 4, mark};
  return e;
}

TEST(GemmTable, SurvivesItsJson) {
  GemmTable table({"GPU \"A\"", "GPU B"}, 130100);
  table.set(entry(8, 128, 7));
  table.set(entry(16, 128, 8));
  const GemmTable read = GemmTable::parse(table.to_json(), "t");
  EXPECT_TRUE(read.applies("GPU \"A\"", 130100));
  EXPECT_TRUE(read.applies("GPU B", 130100));
  EXPECT_FALSE(read.applies("GPU B", 130101));
  EXPECT_FALSE(read.applies("GPU", 130100));
  ASSERT_EQ(read.entries().size(), 2U);
  EXPECT_EQ(read.entries()[1].algorithm, entry(16, 128, 8).algorithm);
  EXPECT_EQ(read.entries()[1].rows, 16);
  EXPECT_EQ(read.to_json(), table.to_json());
}

TEST(GemmTable, ReplacesTheSameProduct) {
  GemmTable table({}, 1);
  table.set(entry(8, 128, 1));
  table.set(entry(8, 128, 2));
  ASSERT_EQ(table.entries().size(), 1U);
  EXPECT_EQ(table.entries()[0].algorithm[0], 2U);
}

TEST(GemmTable, FindsOnlyWhatWasMeasured) {
  GemmTable table({}, 1);
  table.set(entry(64, 128, 64));
  table.set(entry(128, 128, 128));
  const GemmEntry* found = table.find(128, 128, 64, DType::kBF16, DType::kBF16);
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->algorithm[0], 128U);
  EXPECT_EQ(table.find(72, 128, 64, DType::kBF16, DType::kBF16), nullptr);
  EXPECT_EQ(table.find(64, 256, 64, DType::kBF16, DType::kBF16), nullptr);
  EXPECT_EQ(table.find(64, 128, 72, DType::kBF16, DType::kBF16), nullptr);
  EXPECT_EQ(table.find(64, 128, 64, DType::kF16, DType::kF16), nullptr);
  EXPECT_EQ(table.find(64, 128, 64, DType::kBF16, DType::kF32), nullptr);
}

std::string complaint(const std::string& json) {
  try {
    (void)GemmTable::parse(json, "table.json");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(GemmTable, SaysWhatIsWrong) {
  const std::string head = R"({"devices": ["A"], "cublaslt": 1, "entries": [)";
  const std::string product = R"({"rows": 1, "n": 8, "k": 8, "dtype": "bfloat16", "out": )";
  const auto names = [](const std::string& json, const std::string& what) {
    const std::string message = complaint(json);
    EXPECT_NE(message.find("table.json"), std::string::npos) << json;
    EXPECT_NE(message.find(what), std::string::npos) << message;
  };
  names("", "");
  names("[]", "cublaslt");
  names(R"({"cublaslt": 1})", "devices");
  names(R"({"cublaslt": 0, "devices": [], "entries": []})", "cublaslt");
  names(R"({"cublaslt": 1, "devices": [5], "entries": []})", "devices");
  names(R"({"cublaslt": 1, "devices": []})", "entries");
  names(head + "7]}", "entries[0].rows");
  names(head + R"({"rows": -1}]})", "entries[0].rows");
  names(head + product + R"("int32"}]})", "entries[0].out");
  names(head + product + R"("float32"}]})", "entries[0].algorithm");
  names(head + product + R"("float32", "algorithm": "00"}]})", "entries[0].algorithm");
  names(head + product + R"("float32", "algorithm": ")" + std::string(127, '0') + R"(g"}]})",
        "entries[0].algorithm");
}

TEST(GemmTable, ReadsAFile) {
  const TestFolder folder;
  const std::string path = (folder / "gemm_table.json").string();
  std::ofstream(path) << GemmTable({"A"}, 5).to_json();
  EXPECT_TRUE(GemmTable::read(path).applies("A", 5));
  std::filesystem::remove(path);
  EXPECT_THROW((void)GemmTable::read(path), IoError);
}

TEST(GemmTable, ShippedOnesAreComplete) {
  for (const GemmTable& table : shipped_gemm_tables()) {
    ASSERT_FALSE(table.entries().empty());
    for (const GemmEntry& e : table.entries()) {
      EXPECT_GT(e.microseconds, 0) << e.rows << " x " << e.n;
      EXPECT_LE(e.microseconds, e.default_microseconds) << e.rows << " x " << e.n;
    }
  }
  EXPECT_FALSE(shipped_gemm_tables().empty());
}

}  // namespace
}  // namespace nanoflow::cuda
