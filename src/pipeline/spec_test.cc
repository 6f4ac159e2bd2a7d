#include "pipeline/spec.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "base/test_folder.h"

namespace nanoflow {
namespace {

PipelineSpec parse(const std::string& text) {
  return parse_spec(parse_json(text).value(), "a.json");
}

std::string error_of(const std::string& text) {
  try {
    (void)parse(text);
  } catch (const FormatError& error) {
    return error.what();
  }
  return "accepted";
}

PipelineSpec full_spec() {
  return {
      .name = "two \"halves\"",
      .key = {.model = "llama-3.1-8b", .device = "H200", .tp = 2, .rows = 2048},
      .order = {{.op = "qkv", .rows = {0, 640}, .sm = {100, SmBudget::Kind::kHard}},
                {.op = "attn_decode", .rows = {0, 2048}, .stage = 1, .lane = 1, .sm = {.sms = 20}},
                {.op = "qkv", .rows = {640, 2048}, .lane = 2, .after_start = {0, 1}}}};
}

TEST(Spec, SurvivesItsOwnJson) {
  const PipelineSpec spec = full_spec();
  EXPECT_EQ(parse_spec(spec.to_json(), "memory"), spec);
}

TEST(Spec, SurvivesAFile) {
  const TestFolder folder;
  const auto path = folder / "spec.json";
  write_spec(path, full_spec());
  EXPECT_EQ(read_spec(path), full_spec());
  write_spec(path, {.name = "empty"});
  EXPECT_EQ(read_spec(path), PipelineSpec{.name = "empty"});
  std::filesystem::remove(path);
  EXPECT_THROW((void)read_spec(path), IoError);
}

TEST(Spec, HasDefaults) {
  const PipelineSpec spec = parse(R"({"key": {}, "order": [{"op": "o", "rows": [0, 1]}]})");
  EXPECT_EQ(spec.name, "a.json");
  EXPECT_EQ(spec.key, SpecKey{});
  EXPECT_EQ(spec.order, std::vector<NanoOp>({{.op = "o", .rows = {0, 1}}}));
  EXPECT_EQ(spec.num_lanes(), 1);
  EXPECT_EQ(spec.max_stage(), 0);
  EXPECT_EQ(full_spec().num_lanes(), 3);
  EXPECT_EQ(full_spec().max_stage(), 1);
}

TEST(Spec, NamesFileAndEntryOfAMistake) {
  const auto entry = [](const std::string& members) {
    return error_of(R"({"key": {"rows": 4}, "order": [{"op": "o", "rows": [0, 4]}, {)" + members +
                    "}]}");
  };
  EXPECT_NE(entry(R"("rows": [0, 4])").find("a.json: order[1]: \"op\" is missing"),
            std::string::npos)
      << entry(R"("rows": [0, 4])");
  for (const char* bad : {R"("op": "o")",
                          R"("op": "o", "rows": 4)",
                          R"("op": "o", "rows": [0, 5])",
                          R"("op": "o", "rows": [2, 2])",
                          R"("op": "o", "rows": [3, 2])",
                          R"("op": "o", "rows": [-1, 2])",
                          R"("op": "o", "rows": [0, 0.5])",
                          R"("op": "o", "rows": [0, 1, 2])",
                          R"("op": 3, "rows": [0, 4])",
                          R"("op": "o", "rows": [0, 4], "lane": -1)",
                          R"("op": "o", "rows": [0, 4], "lane": 99)",
                          R"("op": "o", "rows": [0, 4], "lane": "a")",
                          R"("op": "o", "rows": [0, 4], "stage": -1)",
                          R"("op": "o", "rows": [0, 4], "stage": 1000000)",
                          R"("op": "o", "rows": [0, 4], "sms": -1)",
                          R"("op": "o", "rows": [0, 4], "hard": 1)",
                          R"("op": "o", "rows": [0, 4], "after_start": 0)",
                          R"("op": "o", "rows": [0, 4], "after_start": [2])",
                          R"("op": "o", "rows": [0, 4], "after_start": [-1])",
                          R"("op": "o", "rows": [0, 4], "waits": [0])",
                          R"("op": "o", "rows": [0, 4], "lane": 1, "lane": 2)"})
    EXPECT_NE(entry(bad).find("a.json: order[1]: "), std::string::npos)
        << bad << ": " << entry(bad);
  for (const char* bad :
       {"[]", "{}", R"({"key": {}})", R"({"order": []})", R"({"key": {}, "order": {}})",
        R"({"key": {"rows": 0}, "order": []})", R"({"key": {"rows": 99999999999}, "order": []})",
        R"({"key": {"gpu": "x"}, "order": []})", R"({"key": {"tp": -1}, "order": []})",
        R"({"key": {}, "order": [3]})", R"({"key": {}, "order": [], "cuts": []})",
        R"({"key": {}, "order": [], "name": 1})"})
    EXPECT_NE(error_of(bad).find("a.json: "), std::string::npos) << bad << ": " << error_of(bad);
}

TEST(ScaleRows, IsExactInTheBucketOfTheSpec) {
  EXPECT_EQ(scale_rows({3, 650}, 2048, 2048), (RowRange{3, 650}));
}

TEST(ScaleRows, KeepsProportionInMultiplesOfATile) {
  EXPECT_EQ(scale_rows({0, 1}, 2, 2048), (RowRange{0, 1024}));
  EXPECT_EQ(scale_rows({1, 2}, 2, 2048), (RowRange{1024, 2048}));
  EXPECT_EQ(scale_rows({1, 2}, 3, 128), (RowRange{48, 80}));
  EXPECT_EQ(scale_rows({640, 2048}, 2048, 100), (RowRange{32, 100}));
  EXPECT_EQ(scale_rows({1, 3}, 4, 7), (RowRange{2, 5})) << "small buckets are cut anywhere";
}

TEST(ScaleRows, TilesEveryBucket) {
  for (const int64_t unit : {1, 2, 3, 4, 7, 100})
    for (int64_t bucket = 1; bucket < 300; ++bucket) {
      int64_t row = 0;
      for (int64_t piece = 0; piece < unit; ++piece) {
        const RowRange range = scale_rows({piece, piece + 1}, unit, bucket);
        EXPECT_EQ(range.begin, row);
        EXPECT_GE(range.end, range.begin);
        row = range.end;
      }
      EXPECT_EQ(row, bucket);
    }
}

}  // namespace
}  // namespace nanoflow
