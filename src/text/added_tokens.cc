#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"

namespace nanoflow {
namespace {

/// Whether bytes [begin, end) and `spans` (in order, disjoint) have one in common.
bool overlaps(std::span<const TextSpan> spans, size_t begin, size_t end) {
  const auto first = std::partition_point(spans.begin(), spans.end(),
                                          [&](const TextSpan& s) { return s.end <= begin; });
  return first != spans.end() && first->begin < end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedTokenPattern>& patterns)
    : patterns_(patterns), nodes_(1) {
  for (size_t i = 0; i < patterns_.size(); ++i) {
    insert(patterns_[i].content, static_cast<int32_t>(i));
  }
}

void AddedTokenMatcher::insert(std::string_view content, int32_t pattern) {
  if (content.empty()) return;
  starts_[static_cast<unsigned char>(content[0])] = true;
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    const Node* next = child(nodes_[node], byte);
    if (next) {
      node = static_cast<uint32_t>(next - nodes_.data());
    } else {
      const auto made = static_cast<uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, made);
      nodes_.emplace_back();
      node = made;
    }
  }
  nodes_[node].pattern = pattern;
}

const AddedTokenMatcher::Node* AddedTokenMatcher::child(const Node& node,
                                                        unsigned char byte) const {
  for (const auto& [key, index] : node.children) {
    if (key == byte) return &nodes_[index];
  }
  return nullptr;
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t pos,
                                                 std::span<const TextSpan> literal) const {
  if (patterns_.empty()) return {};
  for (size_t begin = pos; begin < text.size(); ++begin) {
    if (!starts_[static_cast<unsigned char>(text[begin])]) continue;
    int32_t longest = -1;
    const Node* node = nodes_.data();
    for (size_t i = begin; i < text.size(); ++i) {
      node = child(*node, static_cast<unsigned char>(text[i]));
      if (!node) break;
      if (node->pattern < 0) continue;
      const AddedTokenPattern& met = patterns_[static_cast<size_t>(node->pattern)];
      const bool refused = met.special && overlaps(literal, begin + met.lead, i + 1);
      if (!refused) longest = node->pattern;
    }
    if (longest < 0) continue;
    const AddedTokenPattern& pattern = patterns_[static_cast<size_t>(longest)];
    const Match match = apply_rules(text, pos, begin, pattern);
    if (match.id >= 0) return match;
    begin += pattern.content.size() - 1;  // a refused match still covers its text
  }
  return {};
}

AddedTokenMatcher::Match AddedTokenMatcher::apply_rules(std::string_view text, size_t floor,
                                                        size_t begin,
                                                        const AddedTokenPattern& pattern) const {
  size_t end = begin + pattern.content.size();
  if (pattern.single_word) {
    if (begin > 0 && is_word_char(decode_before(text, begin).value)) return {};
    if (end < text.size() && is_word_char(decode_valid_utf8(text.data() + end).value)) return {};
  }
  if (pattern.lstrip) {
    while (begin > floor) {
      const CodePoint c = decode_before(text, begin);
      if (char_class(c.value) != CharClass::kSpace) break;
      begin -= c.length;
    }
  }
  if (pattern.rstrip) {
    while (end < text.size()) {
      const CodePoint c = decode_valid_utf8(text.data() + end);
      if (char_class(c.value) != CharClass::kSpace) break;
      end += c.length;
    }
  }
  return {begin, end, pattern.id};
}

}  // namespace nanoflow
