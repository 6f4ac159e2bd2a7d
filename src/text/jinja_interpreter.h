// Walks a Program. One Interpreter renders once; Programs are shared between threads.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja_ast.h"
#include "text/text_span.h"

namespace nanoflow::jinja {

/// Inputs of one render besides the program.
struct Context {
  /// Variables by name; a later one of the same name wins. They must outlive the render.
  std::vector<std::pair<std::string_view, const Json*>> variables;
  /// Strings of the variables (views of their own memory) that the request wrote: they are literal
  /// wherever the template puts them.
  std::vector<std::string_view> literal_texts;
  /// Seconds since the epoch, for strftime_now.
  std::function<int64_t()> clock;
  Limits limits;
};

/// A rendered text and which of its bytes come from Context::literal_texts, in order.
struct Rendered {
  std::string text;
  std::vector<TextSpan> literal;
};

/// What `program` renders. Throws TemplateError (kRun, kRaised, kLimit) with the line.
/// Functions: range, dict, namespace, raise_exception, strftime_now.
Rendered render(const Program& program, const Context& context);

}  // namespace nanoflow::jinja
