#include "api/dataset.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/json_fault.h"

namespace nanoflow {
namespace {

bool is_blank(std::string_view line) {
  return std::all_of(line.begin(), line.end(),
                     [](unsigned char c) { return std::isspace(c) != 0; });
}

std::string id_of(const Json& object, int64_t index) {
  for (const char* key : {"custom_id", "id"}) {
    const Json* id = object.find(key);
    if (id != nullptr && id->is_string()) return id->as_string();
    if (id != nullptr && id->is_int()) return fmt::format("{}", id->as_int());
  }
  return fmt::format("request-{}", index);
}

/// Endpoint and body of an OpenAI batch line.
void read_batch_request(const Json& line, DatasetItem& item) {
  const Json* method = line.find("method");
  if (method != nullptr && (!method->is_string() || method->as_string() != "POST")) {
    item.body = fail(ErrorCode::kInvalidArgument, "only \"POST\" is supported", "method");
    return;
  }
  const Json* body = line.find("body");
  if (body == nullptr || !body->is_object()) {
    item.body =
        fail(ErrorCode::kInvalidArgument, "a batch request needs a \"body\" object", "body");
    return;
  }
  const Json* url = line.find("url");
  if (url == nullptr || !url->is_string()) {
    item.body = fail(ErrorCode::kInvalidArgument, "a batch request needs a \"url\" string", "url");
  } else if (url->as_string() == "/v1/chat/completions") {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = *body;
  } else if (url->as_string() == "/v1/completions") {
    item.body = *body;
  } else {
    item.body = fail(ErrorCode::kUnsupported,
                     fmt::format("url {} is not supported; use /v1/completions or "
                                 "/v1/chat/completions",
                                 url->as_string()),
                     "url");
  }
}

/// The prompt of a ShareGPT conversation as a chat body: its first human turn, after a system turn
/// if any.
Result<Json> sharegpt_body(const Json& entry) {
  const Json* turns = entry.find("conversations");
  if (turns == nullptr || !turns->is_array())
    return fail(ErrorCode::kInvalidArgument, "needs a \"conversations\" array", "conversations");
  Json messages{Json::Array{}};
  for (const Json& turn : turns->as_array()) {
    const Json* from = turn.find("from");
    const Json* value = turn.find("value");
    if (from == nullptr || !from->is_string() || value == nullptr || !value->is_string()) continue;
    const bool human = from->as_string() == "human" || from->as_string() == "user";
    if (!human && from->as_string() != "system") continue;
    messages.push_back(Json::object({{"role", human ? "user" : "system"}, {"content", *value}}));
    if (human) return Json::object({{"messages", std::move(messages)}});
  }
  return fail(ErrorCode::kInvalidArgument, "has no human turn", "conversations");
}

/// The member, or nullptr when it is absent or null.
const Json* member(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

/// The members of a plain record without those that name the item.
Json record_body(Json record) {
  std::erase_if(record.as_object(), [](const Json::Member& member) {
    return member.first == "custom_id" || member.first == "id";
  });
  return record;
}

/// A parsed line or array element of any of the formats.
DatasetItem item_of(int64_t index, Json json) {
  DatasetItem item;
  item.index = index;
  item.custom_id = id_of(json, index);
  if (!json.is_object()) {
    item.body = fail(ErrorCode::kInvalidArgument,
                     fmt::format("an item must be a JSON object, not {}", json.type_name()));
  } else if (member(json, "body") != nullptr) {
    read_batch_request(json, item);
  } else if (member(json, "messages") != nullptr || member(json, "prompt") != nullptr) {
    if (member(json, "messages") != nullptr) item.endpoint = Endpoint::kChatCompletions;
    item.is_record = true;
    item.body = record_body(std::move(json));
  } else if (member(json, "conversations") != nullptr) {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = sharegpt_body(json);
  } else if (member(json, "url") != nullptr) {
    read_batch_request(json, item);  // which says that the body is missing
  } else {
    item.body = fail(ErrorCode::kInvalidArgument,
                     "needs \"prompt\", \"messages\", \"conversations\" or a batch request's "
                     "\"body\"");
  }
  return item;
}

}  // namespace

DatasetItem parse_dataset_line(int64_t index, std::string_view line) {
  // The answer to a line that cannot be read still says whose it is, where that can be read.
  const auto refuse = [&](Error error) {
    DatasetItem item;
    item.index = index;
    item.custom_id = fmt::format("request-{}", index);
    for (const char* key : {"id", "custom_id"})
      item.custom_id = salvage_json_member(line, key).value_or(item.custom_id);
    item.body = tl::unexpected(std::move(error));
    return item;
  };
  if (static_cast<int64_t>(line.size()) > DatasetReader::kMaxLineBytes)
    return refuse({ErrorCode::kInvalidArgument, fmt::format("the line is longer than {} MiB",
                                                            DatasetReader::kMaxLineBytes >> 20)});
  Result<Json> json = parse_json(line);
  if (!json.has_value()) return refuse(json.error());
  return item_of(index, std::move(*json));
}

DatasetReader::DatasetReader(const std::filesystem::path& path)
    : path_(path == "-" ? "standard input" : path), lines_(path, kMaxLineBytes) {
  if (!lines_.is_regular()) return;
  recognise(true);
  if (form_ == Form::kArray) {
    while (!read_array()) continue;
    count_ = static_cast<int64_t>(items_.size());
  } else {
    count_lines();
  }
}

/// Lines fail alone, but a file without any object is no data set.
void DatasetReader::count_lines() {
  LineReader lines(path_, kMaxLineBytes);
  std::string line;
  bool has_object = false;
  while (lines.next(line)) {
    if (is_blank(line)) continue;
    ++count_;
    has_object = has_object || line[line.find_first_not_of(" \t\r\v\f")] == '{';
  }
  if (!has_object)
    throw FormatError(path_.string(),
                      "is no data set: expected JSON lines with \"prompt\" or \"messages\", "
                      "OpenAI batch lines, or a ShareGPT array");
}

bool DatasetReader::recognise(bool wait) {
  if (form_ != Form::kUnknown) return true;
  if (!wait && !lines_.has_first_byte()) return false;
  const std::optional<char> first = lines_.first_byte();
  if (!first.has_value()) throw FormatError(path_.string(), "is empty: there is nothing to serve");
  form_ = *first == '[' ? Form::kArray : Form::kLines;
  return true;
}

/// Takes what has come of the array; true when it is whole.
bool DatasetReader::read_array() {
  if (is_parsed_) return true;
  const bool whole = lines_.drain_available(array_text_);
  if (static_cast<int64_t>(array_text_.size()) > kMaxArrayBytes)
    throw FormatError(path_.string(), fmt::format("the array is longer than {} GiB; use JSON lines",
                                                  kMaxArrayBytes >> 30));
  if (!whole) return false;
  Result<Json> json = parse_json(array_text_);
  if (!json.has_value()) throw FormatError(path_.string(), json.error().message);
  for (Json& element : json->as_array())
    items_.push_back(item_of(static_cast<int64_t>(items_.size()), std::move(element)));
  array_text_ = {};
  is_parsed_ = true;
  return true;
}

bool DatasetReader::ready() {
  if (!recognise(false)) return false;
  return form_ == Form::kArray ? read_array() : lines_.has_line();
}

std::optional<DatasetItem> DatasetReader::next_line() {
  std::string line;
  while (lines_.next(line)) {
    const int64_t index = next_index_++;
    if (!is_blank(line)) return parse_dataset_line(index, line);
  }
  return std::nullopt;
}

std::optional<DatasetItem> DatasetReader::next() {
  recognise(true);
  std::optional<DatasetItem> item;
  if (form_ == Form::kLines) {
    item = next_line();
  } else {
    while (!read_array()) lines_.wait();
    if (next_index_ < static_cast<int64_t>(items_.size()))
      item = std::move(items_[static_cast<size_t>(next_index_++)]);
  }
  if (item.has_value()) {
    ++delivered_;
  } else if (delivered_ < count_) {
    throw IoError(path_.string(),
                  fmt::format("had {} items, but ended after {}: it was changed while it was read",
                              count_, delivered_));
  }
  return item;
}

}  // namespace nanoflow
