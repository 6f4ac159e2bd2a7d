// ToolCallParser: finds the calls of functions in what a model writes, in the formats that models
// are trained on. It knows text alone: no request, no response.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow {

enum class ToolFormat : uint8_t {
  kHermes,    ///< <tool_call>{"name", "arguments"}</tool_call>, of Hermes and Qwen
  kLlama,     ///< {"name", "parameters"}; ..., alone or behind <|python_tag|>, of Llama 3
  kMistral,   ///< [TOOL_CALLS][{"name", "arguments"}, ...], or [TOOL_CALLS]name{arguments}
  kCallList,  ///< [{"name", "parameters"}, ...]: what "tool_choice": "required" makes of any model
  kArguments  ///< the arguments of one call: what a named tool_choice makes of any model
};

/// The format of `serve --tool-call-parser NAME`: hermes, llama3_json or mistral; else nullopt.
[[nodiscard]] std::optional<ToolFormat> tool_format_of_name(std::string_view name);
/// The format whose marker a chat template's text has, or nullopt.
[[nodiscard]] std::optional<ToolFormat> tool_format_of_template(std::string_view text);

/// A call as far as it is known.
struct ToolCall {
  std::string name;
  std::string arguments;  ///< JSON text
};

/// What is new of one call: its name at its begin, and arguments that follow those before.
struct ToolCallPiece {
  int64_t index = 0;  ///< of the call in the output
  bool begins = false;
  std::string name;  ///< where it begins
  std::string arguments;
};

/// What some text of the output turned out to be.
struct ToolOutput {
  std::string content;
  std::vector<ToolCallPiece> calls;
};

/// Takes one output piece by piece. However it is cut, the same content and calls come out. A call
/// is told when it is complete and known to be one; anything else is content, markers included, so
/// that nothing is lost. Only blanks between calls are left out. Arguments of kArguments are told
/// as they come.
class ToolCallParser {
 public:
  /// `name`: of the function, with kArguments. `parallel`: false keeps the first call alone.
  explicit ToolCallParser(ToolFormat format, std::string name = {}, bool parallel = true);

  [[nodiscard]] ToolOutput push(std::string_view text);
  /// The output has ended: what was held back.
  [[nodiscard]] ToolOutput finish();

 private:
  enum class State : uint8_t { kStart, kText, kBody, kAfter, kPlain };

  bool step(ToolOutput& out);
  bool at_start();
  bool in_text(ToolOutput& out);
  bool in_body(ToolOutput& out);
  bool after_call();
  bool begin_body(size_t prefix);
  std::optional<size_t> body_begin();
  std::optional<size_t> value_end(size_t begin);
  bool give_back(ToolOutput& out, size_t end);
  void add_call(ToolCall call, ToolOutput& out);
  std::vector<ToolCall> calls_of(std::string_view value) const;

  ToolFormat format_;
  std::string name_;  // of kArguments; of kMistral, of the call that is being read
  bool parallel_;
  State state_;
  std::string pending_;  // not told yet
  std::string marker_;   // what was read before the body, in case it is none
  int64_t num_calls_ = 0;
  bool closed_ = false;
  // How far value_end() has read of pending_.
  size_t scanned_ = 0;
  int64_t depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

}  // namespace nanoflow
