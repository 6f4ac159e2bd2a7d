// Encoding: added tokens, normaliser, pre-tokeniser and BPE in turn, as Hugging Face tokenizers
// does.
#include "text/tokenizer_impl.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "text/byte_level.h"

namespace nanoflow {
namespace {

/// Whether some token has a space mark behind another character.
bool has_inner_mark(const StringTable& tokens) {
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    size_t pos = 0;
    while (token.substr(pos, kSpaceMark.size()) == kSpaceMark) pos += kSpaceMark.size();
    if (token.find(kSpaceMark, pos) != std::string_view::npos) return true;
  }
  return false;
}

bool can_cut_at_marks(const TokenizerParts& parts) {
  NANO_CHECK(parts.bpe.has_value(), "a loader must set the model");
  const BpeModel& bpe = *parts.bpe;
  if (bpe.units != BpeUnits::kCharacters || !parts.pre_tokenizer.empty()) return false;
  // A mark that is no token itself might join an unknown run across the cut.
  bool mark_is_token = false;
  for (size_t id = 0; id < bpe.tokens.size(); ++id) mark_is_token |= bpe.tokens[id] == kSpaceMark;
  return mark_is_token && !has_inner_mark(bpe.tokens);
}

/// Special tokens are matched before BPE runs, so no text may spell one by merging: a vocabulary
/// that lists them beside ordinary tokens must not give them.
BpeModel without_special(TokenizerParts& parts) {
  NANO_CHECK(parts.bpe.has_value(), "a loader must set the model");
  BpeModel model = *std::exchange(parts.bpe, std::nullopt);
  std::vector<bool> special(model.tokens.size(), false);
  bool any = false;
  for (const AddedTokenEntry& entry : parts.added) {
    const auto id = static_cast<size_t>(entry.pattern.id);
    if (!entry.special || id >= special.size() || model.tokens[id].empty()) continue;
    special[id] = any = true;
  }
  if (!any) return model;
  StringTable tokens;
  for (size_t id = 0; id < special.size(); ++id) {
    tokens.push_back(special[id] ? std::string_view() : model.tokens[id]);
  }
  model.tokens = std::move(tokens);
  std::erase_if(model.merges,
                [&](const Merge& merge) { return special[static_cast<size_t>(merge.result)]; });
  return model;
}

}  // namespace

struct Tokenizer::Impl::Call final : PieceSink {
  explicit Call(const Impl& owner) : impl(owner) {}
  void piece(std::string_view text) override { impl.bpe_.encode(text, scratch, ids); }

  const Impl& impl;
  std::vector<int32_t> ids;
  Bpe::Scratch scratch;
  std::string normalized, marked, part;
  std::vector<TextSpan> literal;  // of the normalised segment
};

Tokenizer::Impl::Impl(TokenizerParts parts)
    : parts_(std::move(parts)),
      texts_(std::move(parts_.texts)),
      text_index_(texts_),
      decode_(parts_.decode),
      words_are_separate_(can_cut_at_marks(parts_)),
      bpe_(without_special(parts_)) {
  build_bytes();
  build_matchers();
}

void Tokenizer::Impl::build_bytes() {
  flags_.assign(texts_.size(), 0);
  for (const int32_t id : parts_.byte_token_ids) flags_[static_cast<size_t>(id)] |= kByte;
  // An added token that is matched after normalisation stands for its normalised text.
  std::vector<std::optional<std::string_view>> added(texts_.size());
  for (const AddedTokenEntry& entry : parts_.added) {
    const auto id = static_cast<size_t>(entry.pattern.id);
    added[id] = entry.normalized ? std::string_view(entry.pattern.content) : texts_[id];
    if (entry.special) flags_[id] |= kSpecial;
  }
  std::string bytes;
  size_t byte_value = 0;
  for (size_t id = 0; id < texts_.size(); ++id) {
    const std::string_view text = added[id].value_or(texts_[id]);
    if (!decode_.sentencepiece) {
      if (added[id] || !bytes_of_byte_level(text, bytes)) bytes = text;
    } else {
      bytes = replace_all(text, kSpaceMark, " ");
    }
    bytes_.push_back(bytes);
  }
  if (!parts_.byte_token_ids.empty()) {
    StringTable with_bytes;
    std::vector<int32_t> value_of(texts_.size(), -1);
    for (const int32_t id : parts_.byte_token_ids) {
      value_of[static_cast<size_t>(id)] = static_cast<int32_t>(byte_value++);
    }
    for (size_t id = 0; id < texts_.size(); ++id) {
      const char byte = static_cast<char>(value_of[id]);
      with_bytes.push_back(value_of[id] < 0 ? bytes_[id] : std::string_view(&byte, 1));
    }
    bytes_ = std::move(with_bytes);
  }
  for (size_t id = 0; id < texts_.size(); ++id) {
    if (is_valid_utf8(bytes_[id])) flags_[id] |= kWholeText;
  }
}

void Tokenizer::Impl::build_matchers() {
  for (const bool with_special : {false, true}) {
    std::vector<AddedTokenPattern> raw, normalized;
    for (const AddedTokenEntry& entry : parts_.added) {
      if (entry.special && !with_special) continue;
      AddedTokenPattern& pattern =
          (entry.normalized ? normalized : raw).emplace_back(entry.pattern);
      pattern.special = entry.special;
      if (!entry.special || !entry.normalized) continue;
      normalizes_special_ = true;
      std::string buffer;
      const std::string_view own = parts_.normalizer.normalize(
          texts_[static_cast<size_t>(pattern.id)], buffer, /*at_start=*/false);
      if (pattern.content.ends_with(own)) pattern.lead = pattern.content.size() - own.size();
    }
    raw_matchers_[with_special] = AddedTokenMatcher(raw);
    normalized_matchers_[with_special] = AddedTokenMatcher(normalized);
  }
}

std::optional<int32_t> Tokenizer::Impl::find(std::string_view token_text) const {
  const int32_t id = text_index_.find(texts_, token_text);
  if (id < 0) return std::nullopt;
  return id;
}

Result<std::vector<int32_t>> Tokenizer::Impl::encode(std::string_view text,
                                                     const EncodeOptions& options) const {
  if (!is_valid_utf8(text)) {
    return fail(ErrorCode::kInvalidArgument, "the text is not valid UTF-8");
  }
  size_t end = 0;
  for (const TextSpan& span : options.literal) {
    NANO_CHECK(end <= span.begin && span.begin < span.end && span.end <= text.size(),
               "literal bytes [{}, {}) of {}", span.begin, span.end, text.size());
    end = span.end;
  }
  Call call(*this);
  // Three bytes a token is common; a text of a denser kind grows the vector once or twice.
  call.ids.reserve(text.size() / 3 + parts_.prefix.size() + parts_.suffix.size() + 8);
  if (options.add_special_tokens) call.ids = parts_.prefix;
  if (!encode_raw(call, text, options)) {
    return fail(ErrorCode::kInvalidArgument,
                "the model's pre-tokeniser pattern would need too much time on this text");
  }
  if (options.add_special_tokens) {
    call.ids.insert(call.ids.end(), parts_.suffix.begin(), parts_.suffix.end());
  }
  return std::move(call.ids);
}

bool Tokenizer::Impl::encode_raw(Call& call, std::string_view text,
                                 const EncodeOptions& options) const {
  const AddedTokenMatcher& matcher = raw_matchers_[options.parse_special];
  size_t pos = 0;
  while (pos < text.size()) {
    const AddedTokenMatcher::Match match = matcher.find(text, pos, options.literal);
    const size_t end = match.id < 0 ? text.size() : match.begin;
    if (end > pos) {
      const std::string_view normal = normalize(call, text.substr(pos, end - pos), pos, options);
      if (!encode_normalized(call, normal, pos == 0, options.parse_special)) return false;
    }
    if (match.id < 0) break;
    call.ids.push_back(match.id);
    pos = match.end;
  }
  return true;
}

// The normalised form of a segment that begins at `offset`, with call.literal as its literal bytes
// where encode_normalized() needs them. To know where spans lie afterwards, the text on either side
// of their borders is normalised by itself; this gives what the whole gives unless characters join
// across a border.
std::string_view Tokenizer::Impl::normalize(Call& call, std::string_view text, size_t offset,
                                            const EncodeOptions& options) const {
  call.literal.clear();
  if (!normalizes_special_ || !options.parse_special || options.literal.empty()) {
    return parts_.normalizer.normalize(text, call.normalized);
  }
  std::string whole;
  size_t done = 0;
  const auto add = [&](size_t end, bool literal) {
    if (end <= done) return;
    const size_t begin = whole.size();
    whole += parts_.normalizer.normalize(text.substr(done, end - done), call.part, done == 0);
    if (literal && whole.size() > begin) append_span(call.literal, {begin, whole.size()});
    done = end;
  };
  const auto first = std::partition_point(options.literal.begin(), options.literal.end(),
                                          [&](const TextSpan& s) { return s.end <= offset; });
  for (auto span = first; span != options.literal.end(); ++span) {
    if (span->begin >= offset + text.size()) break;
    add(span->begin > offset ? span->begin - offset : 0, false);
    add(std::min(span->end - offset, text.size()), true);
  }
  add(text.size(), false);
  call.normalized = std::move(whole);
  return call.normalized;
}

bool Tokenizer::Impl::encode_normalized(Call& call, std::string_view text, bool at_start,
                                        bool parse_special) const {
  const AddedTokenMatcher& matcher = normalized_matchers_[parse_special];
  size_t pos = 0;
  while (pos < text.size()) {
    const AddedTokenMatcher::Match match = matcher.find(text, pos, call.literal);
    const size_t end = match.id < 0 ? text.size() : match.begin;
    if (end > pos && !encode_segment(call, text.substr(pos, end - pos), at_start && pos == 0)) {
      return false;
    }
    if (match.id < 0) break;
    call.ids.push_back(match.id);
    pos = match.end;
  }
  return true;
}

bool Tokenizer::Impl::encode_segment(Call& call, std::string_view text, bool at_start) const {
  if (parts_.metaspace) {
    using Prepend = Metaspace::Prepend;
    call.marked = replace_all(text, " ", kSpaceMark);
    const Prepend prepend = parts_.metaspace->prepend;
    const bool wanted = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && at_start);
    if (wanted && !call.marked.starts_with(kSpaceMark)) call.marked.insert(0, kSpaceMark);
    text = call.marked;
  } else if (parts_.add_prefix_space && text[0] != ' ') {
    call.marked.assign(" ").append(text);
    text = call.marked;
  }
  if (words_are_separate_ || (parts_.metaspace && parts_.metaspace->split)) {
    encode_marked(call, text);
    return true;
  }
  return parts_.pre_tokenizer.split(text, call);
}

// Cuts before a run of space marks (which merges cannot cross), or, for Metaspace with `split`,
// before each mark.
void Tokenizer::Impl::encode_marked(Call& call, std::string_view text) const {
  const bool every_mark = parts_.metaspace && parts_.metaspace->split;
  size_t begin = 0;
  size_t last_mark_end = 0;
  for (size_t at = text.find(kSpaceMark, 0); at != std::string_view::npos;
       at = text.find(kSpaceMark, last_mark_end)) {
    if (at > begin && (every_mark || at > last_mark_end)) {
      call.piece(text.substr(begin, at - begin));
      begin = at;
    }
    last_mark_end = at + kSpaceMark.size();
  }
  if (begin < text.size()) call.piece(text.substr(begin));
}

}  // namespace nanoflow
