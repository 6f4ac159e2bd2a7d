// Server-sent events out of bytes as they arrive: the client's hot path.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

namespace nanoflow {

class SseSplitter {
 public:
  /// A line longer than this is no token any more.
  static constexpr size_t kMaxLineBytes = size_t{16} << 20;

  /// Calls `on_data(std::string_view)` for the value of each complete "data:" line; comments and
  /// other fields are left out. The view is valid during the call. False: a line is too long.
  template <typename OnData>
  bool feed(std::string_view bytes, OnData on_data) {
    while (!bytes.empty()) {
      const size_t end = bytes.find('\n');
      if (end == std::string_view::npos) {
        rest_.append(bytes);
        return rest_.size() <= kMaxLineBytes;
      }
      if (rest_.empty()) {
        line(bytes.substr(0, end), on_data);
      } else {
        rest_.append(bytes.substr(0, end));
        line(rest_, on_data);
        rest_.clear();
      }
      bytes.remove_prefix(end + 1);
    }
    return true;
  }

 private:
  template <typename OnData>
  static void line(std::string_view text, OnData& on_data) {
    if (!text.starts_with("data:")) return;
    text.remove_prefix(5);
    if (text.starts_with(' ')) text.remove_prefix(1);
    if (text.ends_with('\r')) text.remove_suffix(1);
    on_data(text);
  }

  std::string rest_;  ///< of a line that has not ended
};

}  // namespace nanoflow
