// GrammarSource: what a request asks its output to be, and the bounds that are checked before
// anything is compiled from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace nanoflow {

enum class GrammarKind : uint8_t {
  kJsonObject,     ///< any JSON object; no text
  kJsonSchema,     ///< JSON Schema (a JSON object or boolean)
  kRegex,          ///< a regular expression that the whole output matches
  kEbnf,           ///< a grammar in XGrammar's EBNF (llama.cpp's GBNF is close to it); rule "root"
  kChoice,         ///< what choice_grammar() writes
  kStructuralTag,  ///< XGrammar's structural tags, as JSON
};

struct GrammarSource {
  GrammarKind kind = GrammarKind::kJsonObject;
  std::string text;
  std::string param;  ///< the request's field, for errors
};

/// What bounds one request's grammar.
struct GrammarLimits {
  size_t max_bytes = size_t{64} << 10;  ///< of its text
  int64_t max_nesting = 64;             ///< of brackets
  int64_t max_repeat = 4096;            ///< of a counted repetition, and of lengths in a schema
};

/// The text of a kChoice: one of `choices`, none of them empty, and nothing else.
std::string choice_grammar(const std::vector<std::string>& choices);

/// Checks size, nesting, repetition counts and keywords without compiling. Errors, with the
/// source's param: kInvalidArgument, or kUnsupported for a keyword that would not be enforced.
Result<void> check_grammar_source(const GrammarSource& source, const GrammarLimits& limits);

}  // namespace nanoflow
