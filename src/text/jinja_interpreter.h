// Walks a Program. One Interpreter renders once; Programs are shared between threads.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja_ast.h"

namespace nanoflow::jinja {

/// Inputs of one render besides the program.
struct Context {
  /// Variables by name; a later one of the same name wins. They must outlive the render.
  std::vector<std::pair<std::string_view, const Json*>> variables;
  /// Seconds since the epoch, for strftime_now.
  std::function<int64_t()> clock;
  Limits limits;
};

/// The text `program` renders. Throws TemplateError (kRun, kRaised, kLimit) with the line.
/// Functions: range, dict, namespace, raise_exception, strftime_now.
std::string render(const Program& program, const Context& context);

}  // namespace nanoflow::jinja
