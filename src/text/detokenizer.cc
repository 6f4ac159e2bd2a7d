#include "text/detokenizer.h"

#include <utility>

#include "text/tokenizer_impl.h"

namespace nanoflow {
namespace {

BadBytes bad_bytes(const DecodeRules& rules) {
  return rules.sentencepiece ? BadBytes::kPerByte : BadBytes::kPerSequence;
}

/// Takes up to `count` spaces off `text` from `from` on.
void strip_spaces(std::string& text, size_t from, int32_t count) {
  size_t spaces = 0;
  while (spaces < static_cast<size_t>(count) && from + spaces < text.size() &&
         text[from + spaces] == ' ') {
    ++spaces;
  }
  text.erase(from, spaces);
}

}  // namespace

std::string Detokenizer::push(int32_t id) {
  std::string out;
  push(id, out);
  return out;
}

void Detokenizer::push(int32_t id, std::string& out) {
  const Tokenizer::Impl& impl = tokenizer_->impl();
  if (!impl.contains(id) || (options_.skip_special && impl.is_special(id))) return;
  const DecodeRules& rules = impl.decode_rules();
  const std::string_view bytes = impl.bytes(id);
  const size_t before = out.size();
  // Byte-fallback tokens make up characters among themselves only.
  if (!pending_.empty() && rules.sentencepiece && !impl.is_byte(id)) {
    drain_utf8(pending_, true, bad_bytes(rules), out);
  }
  if (pending_.empty() && impl.is_whole_text(id)) {
    if (at_start_ && rules.first_drops_marks && !impl.is_byte(id)) {
      out += replace_all(impl.text(id), kSpaceMark, "");
    } else {
      out += bytes;
    }
  } else {
    pending_ += bytes;
    drain_utf8(pending_, false, bad_bytes(rules), out);
  }
  if (!at_start_) return;
  if (rules.first_drops_marks) {
    at_start_ = false;
  } else if (out.size() > before) {
    at_start_ = false;
    strip_spaces(out, before, rules.strip_left);
  }
}

std::string Detokenizer::finish() {
  std::string out;
  finish(out);
  return out;
}

void Detokenizer::finish(std::string& out) {
  drain_utf8(pending_, true, bad_bytes(tokenizer_->impl().decode_rules()), out);
}

}  // namespace nanoflow
