#include "text/pre_tokenizer.h"

namespace nanoflow {
namespace {

struct Span {
  size_t begin = 0;
  size_t end = 0;
  bool match = false;
};

bool find_matches(const SplitStep& split, std::string_view text,
                  std::vector<std::pair<size_t, size_t>>& matches) {
  if (const auto* regex = std::get_if<std::shared_ptr<const RegexSplitter>>(&split.pattern)) {
    return (*regex)->find_all(text, matches);
  }
  const auto& literal = std::get<std::string>(split.pattern);
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size())) {
    matches.emplace_back(at, at + literal.size());
  }
  return true;
}

/// Matches and the gaps between them, tiling the text.
std::vector<Span> tile(const std::vector<std::pair<size_t, size_t>>& matches, size_t size,
                       bool invert) {
  std::vector<Span> spans;
  size_t pos = 0;
  for (const auto& [begin, end] : matches) {
    if (begin > pos) spans.push_back({pos, begin, invert});
    spans.push_back({begin, end, !invert});
    pos = end;
  }
  if (pos < size) spans.push_back({pos, size, invert});
  return spans;
}

/// Joins or drops spans as `behavior` says. Equals NormalizedString::split of Hugging Face
/// tokenizers.
std::vector<Span> apply_behavior(std::vector<Span> spans, SplitBehavior behavior) {
  std::vector<Span> out;
  bool previous_match = false;
  switch (behavior) {
    case SplitBehavior::kIsolated: return spans;
    case SplitBehavior::kRemoved:
      for (const Span& span : spans) {
        if (!span.match) out.push_back(span);
      }
      return out;
    case SplitBehavior::kContiguous:
      for (const Span& span : spans) {
        if (!out.empty() && out.back().match == span.match) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
      }
      return out;
    case SplitBehavior::kMergedWithPrevious:
      for (const Span& span : spans) {
        if (span.match && !previous_match && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        previous_match = span.match;
      }
      return out;
    case SplitBehavior::kMergedWithNext:
      // A match waits for the gap after it; one that another match follows stands alone.
      for (const Span& span : spans) {
        if (!span.match && previous_match) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        previous_match = span.match;
      }
      return out;
  }
  return out;
}

}  // namespace

bool PreTokenizer::run(size_t step, std::string_view text, PieceSink& sink) const {
  if (step == steps_.size()) {
    sink.piece(text);
    return true;
  }
  if (const auto* split = std::get_if<SplitStep>(&steps_[step])) {
    return run_split(*split, step, text, sink);
  }
  const auto& pattern = std::get<PiecePattern>(steps_[step]);
  const bool last = step + 1 == steps_.size();
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = next_piece(pattern, text, pos);
    const std::string_view piece = text.substr(pos, end - pos);
    if (last) {
      sink.piece(piece);
    } else if (!run(step + 1, piece, sink)) {
      return false;
    }
    pos = end;
  }
  return true;
}

bool PreTokenizer::run_split(const SplitStep& split, size_t step, std::string_view text,
                             PieceSink& sink) const {
  std::vector<std::pair<size_t, size_t>> matches;
  if (!find_matches(split, text, matches)) return false;
  for (const Span& span :
       apply_behavior(tile(matches, text.size(), split.invert), split.behavior)) {
    if (!run(step + 1, text.substr(span.begin, span.end - span.begin), sink)) return false;
  }
  return true;
}

}  // namespace nanoflow
