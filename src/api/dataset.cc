#include "api/dataset.h"

#include <algorithm>
#include <cctype>
#include <istream>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"

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

/// Like std::getline, but keeps at most kMaxLineBytes + 1 bytes of a line. False at the end of the
/// file.
bool read_line(std::istream& in, std::string& line) {
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  constexpr int kEnd = std::char_traits<char>::eof();
  int c = buffer.sbumpc();
  if (c == kEnd) return false;
  for (; c != kEnd && c != '\n'; c = buffer.sbumpc()) {
    if (static_cast<int64_t>(line.size()) <= DatasetReader::kMaxLineBytes)
      line.push_back(static_cast<char>(c));
  }
  return true;
}

/// Endpoint and body of an OpenAI batch line.
void read_batch_request(const Json& line, DatasetItem& item) {
  const Json* method = line.find("method");
  if (method != nullptr && (!method->is_string() || method->as_string() != "POST")) {
    item.body = fail(ErrorCode::kInvalidArgument, "only \"POST\" is supported", "method");
    return;
  }
  const Json* url = line.find("url");
  if (url == nullptr || !url->is_string()) {
    item.body = fail(ErrorCode::kInvalidArgument, "a batch request needs a \"url\" string", "url");
  } else if (url->as_string() == "/v1/chat/completions") {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = *line.find("body");
  } else if (url->as_string() == "/v1/completions") {
    item.body = *line.find("body");
  } else {
    item.body = fail(ErrorCode::kUnsupported,
                     fmt::format("url {} is not supported; use /v1/completions or "
                                 "/v1/chat/completions",
                                 url->as_string()),
                     "url");
  }
  if (item.body.has_value() && !item.body->is_object())
    item.body = fail(ErrorCode::kInvalidArgument, "must be an object", "body");
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

}  // namespace

DatasetItem parse_dataset_line(int64_t index, std::string_view line) {
  DatasetItem item;
  item.index = index;
  item.custom_id = fmt::format("request-{}", index);
  if (static_cast<int64_t>(line.size()) > DatasetReader::kMaxLineBytes) {
    item.body = fail(ErrorCode::kInvalidArgument, fmt::format("the line is longer than {} MiB",
                                                              DatasetReader::kMaxLineBytes >> 20));
    return item;
  }
  Result<Json> json = parse_json(line);
  if (!json.has_value()) {
    item.body = tl::unexpected(json.error());
    return item;
  }
  if (!json->is_object()) {
    item.body = fail(ErrorCode::kInvalidArgument,
                     fmt::format("a line must be a JSON object, not {}", json->type_name()));
    return item;
  }
  item.custom_id = id_of(*json, index);
  if (json->find("body") != nullptr) {
    read_batch_request(*json, item);
  } else if (json->find("messages") != nullptr) {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = std::move(json);
  } else if (json->find("prompt") != nullptr) {
    item.body = std::move(json);
  } else if (json->find("conversations") != nullptr) {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = sharegpt_body(*json);
  } else {
    item.body = fail(ErrorCode::kInvalidArgument,
                     "a line needs \"prompt\", \"messages\" or a batch request's \"body\"");
  }
  return item;
}

DatasetReader::DatasetReader(const std::filesystem::path& path) {
  file_.open(path, std::ios::binary);
  if (!file_) throw IoError(path.string(), "cannot open the data set");
  if (file_.peek() == 0xEF) file_.ignore(3);  // a UTF-8 byte order mark
  const auto start = file_.tellg();
  int first = file_.peek();
  while (first != std::char_traits<char>::eof() && std::isspace(first) != 0) {
    file_.get();
    first = file_.peek();
  }
  if (first == '[') {
    is_array_ = true;
    read_sharegpt(path);
    return;
  }
  if (first != '{') {
    throw FormatError(path.string(),
                      "is no data set: expected JSON lines with \"prompt\" or \"messages\", "
                      "OpenAI batch lines, or a ShareGPT array");
  }
  file_.seekg(start);
  std::string line;
  while (read_line(file_, line)) count_ += is_blank(line) ? 0 : 1;
  file_.clear();
  file_.seekg(start);
}

void DatasetReader::read_sharegpt(const std::filesystem::path& path) {
  const Result<Json> json = parse_json(read_file(path));
  if (!json.has_value()) throw FormatError(path.string(), json.error().message);
  for (const Json& entry : json->as_array()) {
    DatasetItem item;
    item.index = static_cast<int64_t>(items_.size());
    item.custom_id = id_of(entry, item.index);
    item.endpoint = Endpoint::kChatCompletions;
    item.body = sharegpt_body(entry);
    items_.push_back(std::move(item));
  }
  count_ = static_cast<int64_t>(items_.size());
}

std::optional<DatasetItem> DatasetReader::next() {
  if (is_array_) {
    if (next_index_ >= count_) return std::nullopt;
    return items_[static_cast<size_t>(next_index_++)];
  }
  std::string line;
  while (read_line(file_, line)) {
    const int64_t index = next_index_++;
    if (is_blank(line)) continue;
    return parse_dataset_line(index, line);
  }
  return std::nullopt;
}

}  // namespace nanoflow
