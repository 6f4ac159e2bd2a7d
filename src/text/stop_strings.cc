#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

std::vector<size_t> borders(const std::string& text) {
  std::vector<size_t> fail(text.size() + 1, 0);
  size_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = fail[length];
    if (text[i] == text[length]) ++length;
    fail[i + 1] = length;
  }
  return fail;
}

}  // namespace

Result<StopStrings> StopStrings::create(std::vector<std::string> stops, bool include_in_output) {
  StopStrings result;
  result.include_in_output_ = include_in_output;
  for (std::string& stop : stops) {
    if (stop.empty()) {
      return fail(ErrorCode::kInvalidArgument, "a stop string must not be empty", "stop");
    }
    if (!is_valid_utf8(stop)) {
      return fail(ErrorCode::kInvalidArgument, "a stop string is not valid UTF-8", "stop");
    }
    std::vector<size_t> fail_links = borders(stop);
    result.patterns_.push_back({std::move(stop), std::move(fail_links), 0});
  }
  return result;
}

std::string StopStrings::push(std::string_view text, bool may_stop) {
  if (matched_) return {};
  if (patterns_.empty()) return std::string(text);
  std::string out = std::move(held_);
  held_.clear();
  for (const char c : text) {
    out.push_back(c);
    size_t longest = 0;
    for (size_t i = 0; i < patterns_.size(); ++i) {
      Pattern& p = patterns_[i];
      while (p.state > 0 && c != p.text[p.state]) p.state = p.fail[p.state];
      if (c == p.text[p.state]) ++p.state;
      if (p.state < p.text.size()) continue;
      if (!may_stop) {
        p.state = p.fail[p.state];
      } else if (p.state > longest) {
        longest = p.state;
        matched_ = i;
      }
    }
    if (matched_) {
      if (!include_in_output_) out.resize(out.size() - longest);
      return out;
    }
  }
  size_t keep = 0;
  for (const Pattern& p : patterns_) keep = std::max(keep, p.state);
  held_ = out.substr(out.size() - keep);
  out.resize(out.size() - keep);
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

const std::string& StopStrings::matched() const {
  NANO_CHECK(matched_.has_value(), "no stop string was found");
  return patterns_[*matched_].text;
}

}  // namespace nanoflow
