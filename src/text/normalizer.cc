#include "text/normalizer.h"

namespace nanoflow {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t pos = 0;
  for (size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, pos)) {
    out.append(text, pos, at - pos);
    out += to;
    pos = at + from.size();
  }
  return out.append(text, pos);
}

std::string_view Normalizer::normalize(std::string_view text, std::string& buffer) const {
  if (text.empty()) return text;
  for (const Step& step : steps_) {
    if (const auto* form = std::get_if<UnicodeForm>(&step)) {
      if (is_ascii(text)) continue;  // ASCII is in every form
      buffer = normalize_unicode(text, *form);
    } else if (const auto* prepend = std::get_if<PrependStep>(&step)) {
      buffer = std::string(prepend->text).append(text);
    } else {
      const auto& replace = std::get<ReplaceStep>(step);
      buffer = replace_all(text, replace.from, replace.to);
    }
    text = buffer;
  }
  return text;
}

}  // namespace nanoflow
