#include "api/tool_calls.h"

#include <algorithm>
#include <utility>

#include "base/json.h"

namespace nanoflow {
namespace {

/// How calls stand in an output.
struct Layout {
  std::string_view marker;     ///< before a call, or before all
  std::string_view separator;  ///< between calls
  std::string_view closer;     ///< behind a call, or behind all
  bool only_at_start = false;  ///< calls are nowhere but at the output's begin
};

Layout layout_of(ToolFormat format) {
  switch (format) {
    case ToolFormat::kHermes: return {"<tool_call>", "", "</tool_call>", false};
    case ToolFormat::kLlama: return {"<|python_tag|>", ";", "", true};
    case ToolFormat::kMistral: return {"[TOOL_CALLS]", "", "", false};
    case ToolFormat::kCallList: return {"[", ",", "]", true};
    case ToolFormat::kArguments: break;
  }
  return {};
}

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kArgsMarker = "[ARGS]";
/// Names and blanks before a value that are longer belong to no call; they are read anew with every
/// piece, so that they must be short.
constexpr size_t kMostBefore = 256;

/// Bytes at the end of `text` that may be the begin of `marker`.
size_t held_back(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n)
    if (marker.starts_with(text.substr(text.size() - n))) return n;
  return 0;
}

/// Whether `text` may yet become something that starts with `start`.
bool may_become(std::string_view text, std::string_view start) {
  return !start.empty() && text.size() < start.size() && start.starts_with(text);
}

std::optional<ToolCall> call_of(const Json& value) {
  const Json* name = value.find("name");
  const Json* arguments = value.find("arguments");
  if (arguments == nullptr) arguments = value.find("parameters");
  if (name == nullptr || !name->is_string() || name->as_string().empty()) return std::nullopt;
  if (arguments == nullptr || arguments->is_null()) return ToolCall{name->as_string(), "{}"};
  if (arguments->is_object()) return ToolCall{name->as_string(), arguments->dump()};
  // Some models write the arguments as text of an object.
  if (!arguments->is_string()) return std::nullopt;
  const Result<Json> inner = parse_json(arguments->as_string());
  if (!inner.has_value() || !inner->is_object()) return std::nullopt;
  return ToolCall{name->as_string(), arguments->as_string()};
}

}  // namespace

std::optional<ToolFormat> tool_format_of_name(std::string_view name) {
  if (name == "hermes") return ToolFormat::kHermes;
  if (name == "llama3_json") return ToolFormat::kLlama;
  if (name == "mistral") return ToolFormat::kMistral;
  return std::nullopt;
}

std::optional<ToolFormat> tool_format_of_template(std::string_view text) {
  for (const ToolFormat format : {ToolFormat::kHermes, ToolFormat::kMistral, ToolFormat::kLlama})
    if (text.find(layout_of(format).marker) != std::string_view::npos) return format;
  // Llama 3.2's template names no marker, but how a call is to be written.
  if (text.find(R"({"name": function name, "parameters":)") != std::string_view::npos)
    return ToolFormat::kLlama;
  return std::nullopt;
}

ToolCallParser::ToolCallParser(ToolFormat format, std::string name, bool parallel)
    : format_(format),
      name_(std::move(name)),
      parallel_(parallel),
      state_(layout_of(format).only_at_start ? State::kStart : State::kText) {}

ToolOutput ToolCallParser::push(std::string_view text) {
  ToolOutput out;
  if (format_ == ToolFormat::kArguments) {
    if (text.empty()) return out;
    out.calls.push_back({0, num_calls_ == 0, num_calls_ == 0 ? name_ : "", std::string(text)});
    num_calls_ = 1;
    return out;
  }
  pending_ += text;
  while (step(out)) {
  }
  return out;
}

ToolOutput ToolCallParser::finish() {
  ToolOutput out;
  if (state_ == State::kBody) out.content = std::move(marker_);
  // Behind a call, blanks belong to nothing.
  const bool blank = pending_.find_first_not_of(kBlanks) == std::string::npos;
  if (state_ != State::kAfter || !blank) out.content += pending_;
  pending_.clear();
  state_ = State::kPlain;
  return out;
}

/// One state's work. False: nothing more can be said before more text has come.
bool ToolCallParser::step(ToolOutput& out) {
  switch (state_) {
    case State::kStart: return at_start();
    case State::kText: return in_text(out);
    case State::kBody: return in_body(out);
    case State::kAfter: return after_call();
    case State::kPlain: break;
  }
  out.content += pending_;
  pending_.clear();
  return false;
}

/// Goes on to a body behind `prefix` bytes.
bool ToolCallParser::begin_body(size_t prefix) {
  marker_ = pending_.substr(0, prefix);
  pending_.erase(0, prefix);
  state_ = State::kBody;
  closed_ = false;
  scanned_ = 0;
  depth_ = 0;
  in_string_ = false;
  escaped_ = false;
  if (format_ == ToolFormat::kMistral) name_.clear();
  return true;
}

bool ToolCallParser::at_start() {
  const std::string_view marker = layout_of(format_).marker;
  const size_t begin = pending_.find_first_not_of(kBlanks);
  if (std::min(begin, pending_.size()) > kMostBefore) {
    state_ = State::kPlain;
    return true;
  }
  if (begin == std::string::npos) return false;
  const std::string_view rest = std::string_view(pending_).substr(begin);
  if (rest.starts_with(marker)) return begin_body(begin + marker.size());
  if (may_become(rest, marker)) return false;
  if (rest.front() == '{' && format_ == ToolFormat::kLlama) return begin_body(begin);
  state_ = State::kPlain;
  return true;
}

bool ToolCallParser::in_text(ToolOutput& out) {
  const std::string_view marker = layout_of(format_).marker;
  const size_t found = pending_.find(marker);
  const size_t certain =
      found != std::string::npos ? found : pending_.size() - held_back(pending_, marker);
  out.content.append(pending_, 0, certain);
  pending_.erase(0, certain);
  return found != std::string::npos && begin_body(marker.size());
}

/// Where the body's value begins, behind blanks and, for Mistral, a name; npos: there is none;
/// nullopt: not known yet.
std::optional<size_t> ToolCallParser::body_begin() {
  const size_t first = pending_.find_first_not_of(kBlanks);
  if (std::min(first, pending_.size()) > kMostBefore) return std::string::npos;
  if (first == std::string::npos) return std::nullopt;
  if (pending_[first] == '{') return first;
  if (format_ != ToolFormat::kMistral) return std::string::npos;
  if (pending_[first] == '[') return first;
  constexpr std::string_view kNameBytes =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
  const size_t end = pending_.find_first_not_of(kNameBytes, first);
  if (end == first || std::min(end, pending_.size()) - first > kMostBefore)
    return std::string::npos;
  if (end == std::string::npos) return std::nullopt;
  const std::string_view rest = std::string_view(pending_).substr(end);
  if (may_become(rest, kArgsMarker)) return std::nullopt;
  const size_t behind = end + (rest.starts_with(kArgsMarker) ? kArgsMarker.size() : 0);
  const size_t value = pending_.find_first_not_of(kBlanks, behind);
  if (std::min(value, pending_.size()) - behind > kMostBefore) return std::string::npos;
  if (value == std::string::npos) return std::nullopt;
  if (pending_[value] != '{') return std::string::npos;
  name_ = pending_.substr(first, end - first);
  return value;
}

/// Where the value that begins at `begin` ends; nullopt: it has not ended yet. Each byte is read
/// once, however often more comes.
std::optional<size_t> ToolCallParser::value_end(size_t begin) {
  for (scanned_ = std::max(scanned_, begin); scanned_ < pending_.size(); ++scanned_) {
    const char c = pending_[scanned_];
    if (in_string_) {
      if (!escaped_ && c == '"') in_string_ = false;
      escaped_ = !escaped_ && c == '\\';
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ == 0) {
      return scanned_ + 1;
    }
  }
  return std::nullopt;
}

/// The calls that `value` is; none when it is malformed.
std::vector<ToolCall> ToolCallParser::calls_of(std::string_view value) const {
  const Result<Json> json = parse_json(value);
  std::vector<ToolCall> calls;
  if (!json.has_value()) return calls;
  if (format_ == ToolFormat::kMistral && !name_.empty()) {
    calls.push_back({name_, json->dump()});
    return calls;
  }
  const Json::Array one = json->is_array() ? Json::Array{} : Json::Array{*json};
  for (const Json& item : json->is_array() ? json->as_array() : one) {
    std::optional<ToolCall> call = item.is_object() ? call_of(item) : std::nullopt;
    if (!call.has_value()) return {};
    calls.push_back(std::move(*call));
  }
  return calls;
}

bool ToolCallParser::in_body(ToolOutput& out) {
  const std::optional<size_t> begin = body_begin();
  if (!begin.has_value()) return false;
  if (*begin == std::string::npos) return give_back(out, 0);
  const std::optional<size_t> end = value_end(*begin);
  if (!end.has_value()) return false;
  std::vector<ToolCall> calls = calls_of(std::string_view(pending_).substr(*begin, *end - *begin));
  if (calls.empty()) return give_back(out, *end);
  for (ToolCall& call : calls) add_call(std::move(call), out);
  pending_.erase(0, *end);
  marker_.clear();
  state_ = State::kAfter;
  return true;
}

/// What was taken for a call is none: `end` bytes of it, and what stood before, are content.
bool ToolCallParser::give_back(ToolOutput& out, size_t end) {
  out.content += marker_;
  out.content.append(pending_, 0, end);
  marker_.clear();
  pending_.erase(0, end);
  state_ = layout_of(format_).only_at_start ? State::kPlain : State::kText;
  return true;
}

void ToolCallParser::add_call(ToolCall call, ToolOutput& out) {
  if (num_calls_ > 0 && !parallel_) return;
  out.calls.push_back({num_calls_++, true, std::move(call.name), std::move(call.arguments)});
}

/// Blanks, what closes a call and what parts it from the next are left out.
bool ToolCallParser::after_call() {
  const Layout layout = layout_of(format_);
  pending_.erase(0, std::min(pending_.find_first_not_of(kBlanks), pending_.size()));
  if (pending_.empty()) return false;
  if (!layout.separator.empty() && pending_.starts_with(layout.separator)) {
    const size_t next = pending_.find_first_not_of(kBlanks, layout.separator.size());
    if (next == std::string::npos) return false;
    if (pending_[next] == '{') return begin_body(next);
  }
  if (!closed_ && !layout.closer.empty()) {
    if (pending_.starts_with(layout.closer)) {
      pending_.erase(0, layout.closer.size());
      closed_ = true;
      return true;
    }
    if (may_become(pending_, layout.closer)) return false;
  }
  if (format_ == ToolFormat::kLlama && pending_.front() == '{') return begin_body(0);
  if (format_ != ToolFormat::kCallList) {
    if (pending_.starts_with(layout.marker)) return begin_body(layout.marker.size());
    if (may_become(pending_, layout.marker)) return false;
  }
  state_ = layout.only_at_start ? State::kPlain : State::kText;
  return true;
}

}  // namespace nanoflow
