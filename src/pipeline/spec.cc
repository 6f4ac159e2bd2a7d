#include "pipeline/spec.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/mmap.h"

namespace nanoflow {
namespace {

/// Checked access to one JSON object of a spec.
class SpecReader {
 public:
  SpecReader(const Json& json, std::string origin, std::string where)
      : json_(json), origin_(std::move(origin)), where_(std::move(where)) {
    if (!json.is_object()) fail("must be an object");
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw FormatError(origin_, fmt::format("{}: {}", where_, why));
  }
  void allow_only(std::initializer_list<std::string_view> keys) const {
    for (const auto& [key, value] : json_.as_object()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(fmt::format("unknown key \"{}\"", key));
      if (json_.find(key) != &value) fail(fmt::format("\"{}\" appears twice", key));
    }
  }
  [[nodiscard]] std::string text(std::string_view key, std::string fallback) const {
    const Json* value = json_.find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) fail(fmt::format("\"{}\" must be a string", key));
    return value->as_string();
  }
  [[nodiscard]] int64_t number(std::string_view key, int64_t fallback, int64_t min,
                               int64_t max) const {
    const Json* value = json_.find(key);
    if (value == nullptr) return fallback;
    if (!value->is_int() || value->as_int() < min || value->as_int() > max)
      fail(fmt::format("\"{}\" must be an integer in [{}, {}]", key, min, max));
    return value->as_int();
  }
  [[nodiscard]] bool flag(std::string_view key) const {
    const Json* value = json_.find(key);
    if (value == nullptr) return false;
    if (!value->is_bool()) fail(fmt::format("\"{}\" must be a boolean", key));
    return value->as_bool();
  }
  [[nodiscard]] RowRange range(std::string_view key, int64_t end) const {
    const Json* value = json_.find(key);
    if (value == nullptr) fail(fmt::format("\"{}\" is missing", key));
    const bool pair = value->is_array() && value->as_array().size() == 2 &&
                      value->as_array()[0].is_int() && value->as_array()[1].is_int();
    if (!pair) fail(fmt::format("\"{}\" must be [begin, end]", key));
    const RowRange rows{value->as_array()[0].as_int(), value->as_array()[1].as_int()};
    if (rows.begin < 0 || rows.begin >= rows.end || rows.end > end)
      fail(fmt::format("rows [{}, {}) are no part of [0, {})", rows.begin, rows.end, end));
    return rows;
  }
  [[nodiscard]] std::vector<int> references(std::string_view key, size_t count) const {
    std::vector<int> indices;
    const Json* value = json_.find(key);
    if (value == nullptr) return indices;
    if (!value->is_array()) fail(fmt::format("\"{}\" must be a list", key));
    for (const Json& item : value->as_array()) {
      if (!item.is_int() || item.as_int() < 0 || item.as_int() >= static_cast<int64_t>(count))
        fail(fmt::format("\"{}\" must list entries of the order, by index", key));
      indices.push_back(static_cast<int>(item.as_int()));
    }
    return indices;
  }

 private:
  const Json& json_;
  std::string origin_;
  std::string where_;
};

// Far above what any device has; what is larger is a slip of the pen.
constexpr int64_t kMaxLanes = 16;
constexpr int64_t kMaxStage = 7;
constexpr int64_t kMaxSms = 1024;
constexpr int64_t kMaxRows = int64_t{1} << 24;
constexpr int64_t kMaxTp = 1024;

/// `count`: entries of the order.
NanoOp parse_nano_op(const Json& json, const std::string& origin, size_t index, size_t count,
                     int64_t rows) {
  const SpecReader in(json, origin, fmt::format("order[{}]", index));
  in.allow_only({"op", "rows", "stage", "lane", "sms", "hard", "after_start"});
  NanoOp nano;
  nano.op = in.text("op", "");
  if (nano.op.empty()) in.fail("\"op\" is missing");
  nano.rows = in.range("rows", rows);
  nano.stage = static_cast<int>(in.number("stage", 0, 0, kMaxStage));
  nano.lane = static_cast<LaneId>(in.number("lane", 0, 0, kMaxLanes - 1));
  nano.sm.sms = static_cast<int>(in.number("sms", 0, 0, kMaxSms));
  nano.sm.kind = in.flag("hard") ? SmBudget::Kind::kHard : SmBudget::Kind::kSoft;
  nano.after_start = in.references("after_start", count);
  return nano;
}

}  // namespace

int PipelineSpec::num_lanes() const {
  int lanes = 1;
  for (const NanoOp& nano : order) lanes = std::max(lanes, nano.lane + 1);
  return lanes;
}

int PipelineSpec::max_stage() const {
  int stage = 0;
  for (const NanoOp& nano : order) stage = std::max(stage, nano.stage);
  return stage;
}

Json PipelineSpec::to_json() const {
  Json key_json = Json::object();
  if (!key.model.empty()) key_json.set("model", key.model);
  if (!key.device.empty()) key_json.set("device", key.device);
  if (key.tp != 0) key_json.set("tp", key.tp);
  key_json.set("rows", key.rows);
  Json::Array ops;
  for (const NanoOp& nano : order) {
    Json op = Json::object({{"op", nano.op},
                            {"rows", Json::array({nano.rows.begin, nano.rows.end})},
                            {"lane", nano.lane}});
    if (nano.stage != 0) op.set("stage", nano.stage);
    if (nano.sm.sms != 0) op.set("sms", nano.sm.sms);
    if (nano.sm.kind == SmBudget::Kind::kHard) op.set("hard", true);
    if (!nano.after_start.empty())
      op.set("after_start", Json(Json::Array(nano.after_start.begin(), nano.after_start.end())));
    ops.push_back(std::move(op));
  }
  return Json::object({{"name", name}, {"key", std::move(key_json)}, {"order", std::move(ops)}});
}

PipelineSpec parse_spec(const Json& json, const std::string& origin) {
  const SpecReader in(json, origin, "spec");
  in.allow_only({"name", "key", "order"});
  PipelineSpec spec;
  spec.name = in.text("name", origin);
  const Json* key = json.find("key");
  if (key == nullptr) in.fail("\"key\" is missing");
  const SpecReader key_in(*key, origin, "key");
  key_in.allow_only({"model", "device", "tp", "rows"});
  spec.key.model = key_in.text("model", "");
  spec.key.device = key_in.text("device", "");
  spec.key.tp = static_cast<int>(key_in.number("tp", 0, 0, kMaxTp));
  spec.key.rows = key_in.number("rows", 1, 1, kMaxRows);
  const Json* order = json.find("order");
  if (order == nullptr || !order->is_array()) in.fail("\"order\" must be a list");
  const Json::Array& entries = order->as_array();
  for (size_t i = 0; i < entries.size(); ++i)
    spec.order.push_back(parse_nano_op(entries[i], origin, i, entries.size(), spec.key.rows));
  return spec;
}

PipelineSpec read_spec(const std::filesystem::path& path) {
  const Result<Json> json = parse_json(read_file(path));
  if (!json.has_value()) throw FormatError(path.string(), json.error().message);
  return parse_spec(*json, path.string());
}

void write_spec(const std::filesystem::path& path, const PipelineSpec& spec) {
  const Json json = spec.to_json();
  std::vector<std::string> lines;
  for (const Json& op : json.find("order")->as_array()) lines.push_back(op.dump(-1, true));
  std::string name;
  append_json_string(name, spec.name);
  const std::string key = json.find("key")->dump(-1, true);
  write_file_atomically(path, fmt::format("{{\"name\": {}, \"key\": {}, \"order\": [\n {}\n]}}\n",
                                          name, key, fmt::join(lines, ",\n ")));
}

RowRange scale_rows(const RowRange& range, int64_t spec_rows, int64_t bucket_rows) {
  NANO_CHECK(spec_rows > 0 && bucket_rows >= 0, "{} -> {} rows", spec_rows, bucket_rows);
  if (bucket_rows == spec_rows) return range;
  const int64_t multiple = bucket_rows >= 64 ? 16 : 1;
  const auto cut = [&](int64_t row) {
    if (row == 0 || row == spec_rows) return row == 0 ? 0 : bucket_rows;
    const int64_t scaled = (row * bucket_rows + spec_rows * multiple / 2) / (spec_rows * multiple);
    return std::min(scaled * multiple, bucket_rows);
  };
  return {cut(range.begin), cut(range.end)};
}

}  // namespace nanoflow
