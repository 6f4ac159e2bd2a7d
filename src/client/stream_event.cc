#include "client/stream_event.h"

#include "base/json.h"

namespace nanoflow {
namespace {

constexpr size_t kShownBytes = 200;  // of an answer that says nothing we understand

/// A key's quotes are escaped inside a JSON string, so this finds only keys.
bool has_choices(std::string_view data) {
  constexpr std::string_view kKey = "\"choices\"";
  size_t at = data.find(kKey);
  if (at == std::string_view::npos) return false;
  at = data.find('[', at + kKey.size());
  if (at == std::string_view::npos) return false;
  at = data.find_first_not_of(" \t", at + 1);
  return at != std::string_view::npos && data[at] != ']';
}

int64_t count_of(const Json& usage, std::string_view key) {
  const Json* count = usage.find(key);
  return count != nullptr && count->is_int() ? count->as_int() : -1;
}

}  // namespace

StreamEvent read_stream_event(std::string_view data) {
  StreamEvent event;
  if (has_choices(data)) {
    event.kind = StreamEvent::Kind::kToken;
    return event;
  }
  if (data == "[DONE]") {
    event.kind = StreamEvent::Kind::kDone;
    return event;
  }
  const Result<Json> json = parse_json(data);
  if (json.has_value() && json->find("choices") != nullptr) {
    event.kind = StreamEvent::Kind::kUsage;
    if (const Json* usage = json->find("usage")) {
      event.prompt_tokens = count_of(*usage, "prompt_tokens");
      event.completion_tokens = count_of(*usage, "completion_tokens");
    }
    return event;
  }
  event.error = error_message(data);
  return event;
}

std::string error_message(std::string_view body) {
  const Result<Json> json = parse_json(body);
  if (json.has_value()) {
    const Json* error = json->find("error");
    if (error == nullptr) error = &*json;
    const Json* message = error->find("message");
    if (message != nullptr && message->is_string()) return message->as_string();
    if (error->is_string()) return error->as_string();
  }
  return std::string(body.substr(0, kShownBytes));
}

}  // namespace nanoflow
