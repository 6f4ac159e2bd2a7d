// A range of bytes of a text.
#pragma once

#include <cstddef>
#include <vector>

namespace nanoflow {

/// Bytes [begin, end) of a text.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const TextSpan&) const = default;
};

/// Appends a span that is not empty and does not begin before the last one's end; spans that touch
/// become one.
inline void append_span(std::vector<TextSpan>& spans, TextSpan span) {
  if (!spans.empty() && spans.back().end == span.begin) {
    spans.back().end = span.end;
  } else {
    spans.push_back(span);
  }
}

}  // namespace nanoflow
