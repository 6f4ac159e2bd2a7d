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
  } else if (member(json, "messages") != nullptr) {
    item.endpoint = Endpoint::kChatCompletions;
    item.body = std::move(json);
  } else if (member(json, "prompt") != nullptr) {
    item.body = std::move(json);
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

/// Skips a UTF-8 byte order mark at the start of `in`.
void skip_mark(std::istream& in) {
  char mark[3] = {};
  in.read(mark, sizeof(mark));
  if (in.gcount() == 3 && std::string_view(mark, 3) == "\xEF\xBB\xBF") return;
  in.clear();
  in.seekg(0);
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
  return item_of(index, std::move(*json));
}

DatasetReader::DatasetReader(const std::filesystem::path& path) {
  file_.open(path, std::ios::binary);
  if (!file_) throw IoError(path.string(), "cannot open the data set");
  if (!std::filesystem::is_regular_file(path))
    throw IoError(path.string(), "is not a regular file");
  skip_mark(file_);
  const auto start = file_.tellg();
  int first = file_.peek();
  while (first != std::char_traits<char>::eof() && std::isspace(first) != 0) {
    file_.get();
    first = file_.peek();
  }
  if (first == '[') {
    is_array_ = true;
    read_array(path);
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

void DatasetReader::read_array(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  std::string_view text = content;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  Result<Json> json = parse_json(text);
  if (!json.has_value()) throw FormatError(path.string(), json.error().message);
  for (Json& element : json->as_array())
    items_.push_back(item_of(static_cast<int64_t>(items_.size()), std::move(element)));
  count_ = static_cast<int64_t>(items_.size());
}

std::optional<DatasetItem> DatasetReader::next() {
  if (is_array_) {
    if (next_index_ >= count_) return std::nullopt;
    return std::move(items_[static_cast<size_t>(next_index_++)]);
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
