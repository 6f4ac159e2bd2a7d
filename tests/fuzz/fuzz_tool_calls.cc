// Any text in any format: the same content and calls however it is cut, and arguments that are
// JSON.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "api/tool_calls.h"
#include "base/json.h"

namespace {

using nanoflow::ToolCallParser;
using nanoflow::ToolFormat;

void add(const nanoflow::ToolOutput& out, bool whole_calls, std::string& content,
         std::string& calls) {
  content += out.content;
  for (const auto& piece : out.calls) {
    calls += piece.name + piece.arguments;
    if (whole_calls && !nanoflow::parse_json(piece.arguments).has_value()) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto format = static_cast<ToolFormat>(data[0] % 5);
  const bool whole_calls = format != ToolFormat::kArguments;
  const size_t step = 1 + data[1] % 16;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  ToolCallParser whole(format, "f", (data[1] & 128U) == 0);
  ToolCallParser pieces = whole;
  std::string content, calls, cut_content, cut_calls;
  add(whole.push(text), whole_calls, content, calls);
  add(whole.finish(), whole_calls, content, calls);
  for (size_t at = 0; at < text.size(); at += step)
    add(pieces.push(text.substr(at, step)), whole_calls, cut_content, cut_calls);
  add(pieces.finish(), whole_calls, cut_content, cut_calls);
  // Of arguments alone, only the first piece has the name.
  if (content != cut_content || calls != cut_calls) __builtin_trap();
  return 0;
}
