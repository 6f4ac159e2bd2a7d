#include "text/normalizer.h"

namespace nanoflow {
namespace {

/// Characters that NFC never changes and never joins to what is before them: everything below the
/// combining marks, typographic punctuation, unified ideographs. Text may be cut before each.
bool starts_nfc_segment(char32_t c) {
  return c < 0x300 || (c >= 0x2010 && c <= 0x2027) || (c >= 0x4E00 && c <= 0x9FFF);
}

/// NFC of `text` in `out`; false (and `out` unspecified) if `text` is its own NFC. Only the
/// segments that have other characters go through utf8proc, which is slower than all the rest of
/// encode().
bool compose(std::string_view text, std::string& out) {
  out.clear();
  size_t done = 0;     // text before it is in `out`
  size_t segment = 0;  // start of the last character that starts a segment
  bool plain = true;   // of the segment
  bool changed = false;
  const auto finish_segment = [&](size_t end) {
    if (plain) return;
    out.append(text, done, segment - done);
    out += normalize_unicode(text.substr(segment, end - segment), UnicodeForm::kNfc);
    done = end;
    plain = true;
    changed = true;
  };
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = decode_valid_utf8(text.data() + pos);
    if (starts_nfc_segment(c.value)) {
      finish_segment(pos);
      segment = pos;
    } else {
      plain = false;
    }
    pos += c.length;
  }
  finish_segment(text.size());
  out.append(text, done);
  return changed;
}

}  // namespace

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

std::string_view Normalizer::normalize(std::string_view text, std::string& buffer,
                                       bool at_start) const {
  if (text.empty()) return text;
  for (const Step& step : steps_) {
    if (const auto* form = std::get_if<UnicodeForm>(&step)) {
      if (is_ascii(text)) continue;  // ASCII is in every form
      std::string normal;
      if (*form != UnicodeForm::kNfc) {
        normal = normalize_unicode(text, *form);
      } else if (!compose(text, normal)) {
        continue;
      }
      buffer = std::move(normal);
    } else if (const auto* prepend = std::get_if<PrependStep>(&step)) {
      if (!at_start) continue;
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
