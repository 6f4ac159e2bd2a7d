// Template text to Program.
//
// Supported statements: if/elif/else, for (loop, filter, else, unpacking, break, continue), set
// (names, unpacking, namespace attributes, blocks), macro, call, filter, with, generation, raw,
// comments, whitespace control. Expressions: all operators of Jinja, inline if, filters, tests,
// calls, slices. Not supported, with a clear error: include, import, extends, block, autoescape,
// do, trans, recursive loops, and filters, tests and functions that
// are not in jinja_filters*.cc, jinja_predicates.cc and jinja_interpreter.cc.
#pragma once

#include <memory>
#include <string_view>

#include "text/jinja_ast.h"

namespace nanoflow::jinja {

/// Parses `source`. Throws TemplateError kSyntax with the line. Linear in the size of the source.
std::unique_ptr<const Program> parse(std::string_view source);

}  // namespace nanoflow::jinja
