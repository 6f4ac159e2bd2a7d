#include "formats/dequant.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

const GgufFile& fixture() {
  static const GgufFile file(std::filesystem::path(NANOFLOW_FIXTURES "/gguf/quants.gguf"));
  return file;
}

std::vector<float> values_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  dequantize(tensor.type, tensor.bytes, values);
  return values;
}

class Dequant : public ::testing::TestWithParam<GgmlType> {};

// Bit for bit: the same operations in the same order, each rounded to float32 (no fused
// multiply-add: compilers contract nothing without its instruction set, which this folder is not
// compiled for).
TEST_P(Dequant, EqualsTheGgufPackage) {
  const std::string name = ggml_type_name(GetParam());
  const GgufTensor* blocks = fixture().find_tensor(name);
  const GgufTensor* golden = fixture().find_tensor(name + ".f32");
  ASSERT_NE(blocks, nullptr);
  ASSERT_NE(golden, nullptr);
  const std::vector<float> got = values_of(*blocks);
  const std::vector<float> want = values_of(*golden);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
        << name << "[" << i << "]: " << got[i] << ", expected " << want[i];
}

// Every block by itself, at an odd address: nothing outside of it is read (a sanitizer would see)
// and nothing depends on alignment.
TEST_P(Dequant, BlocksAreIndependent) {
  const GgufTensor& tensor = *fixture().find_tensor(ggml_type_name(GetParam()));
  const std::vector<float> whole = values_of(tensor);
  const GgmlBlock block = *ggml_block(GetParam());
  const auto bytes = static_cast<size_t>(block.bytes);
  const auto elements = static_cast<size_t>(block.elements);
  for (size_t i = 0; i * elements < whole.size(); ++i) {
    std::vector<std::byte> copy(bytes + 1);
    std::copy_n(tensor.bytes.data() + i * bytes, bytes, copy.begin() + 1);
    std::vector<float> out(elements);
    dequantize(GetParam(), std::span(copy).subspan(1), out);
    for (size_t j = 0; j < elements; ++j)
      ASSERT_EQ(std::bit_cast<uint32_t>(out[j]), std::bit_cast<uint32_t>(whole[i * elements + j]));
  }
}

TEST_P(Dequant, NothingIsNothing) {
  dequantize(GetParam(), {}, {});
}

INSTANTIATE_TEST_SUITE_P(Types, Dequant,
                         ::testing::Values(GgmlType::kF16, GgmlType::kBF16, GgmlType::kQ4_0,
                                           GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                                           GgmlType::kQ8_0, GgmlType::kQ4_K, GgmlType::kQ5_K,
                                           GgmlType::kQ6_K),
                         [](const auto& tested) { return ggml_type_name(tested.param); });

TEST(DequantDeath, SizesMustAgree) {
  std::vector<std::byte> bytes(34);
  std::vector<float> out(64);
  EXPECT_DEATH(dequantize(GgmlType::kQ8_0, bytes, out), "64 elements of Q8_0 in 34 bytes");
  EXPECT_DEATH(dequantize(static_cast<GgmlType>(39), bytes, out), "type 39 cannot be read");
}

}  // namespace
}  // namespace nanoflow
