// GrammarCompiler: turns what a request asks its output to be into a TokenConstraint for one
// vocabulary, within bounds, and remembers the results.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "engine/token_constraint.h"
#include "grammar/grammar_source.h"
#include "text/tokenizer.h"

namespace nanoflow {

struct GrammarCompilerOptions {
  GrammarLimits limits;
  /// A compilation that takes longer fails. It cannot be interrupted: its thread runs on.
  std::chrono::milliseconds timeout{10000};
  /// Compilations at the same time that somebody waits for; more are refused.
  int64_t max_compiling = 4;
  /// Compilations that run on after their time. As many as this, and nothing new is compiled until
  /// one ends: it bounds the cores and the memory that they take.
  int64_t max_late = 2;
  /// Of compiled grammars that are kept for later requests.
  size_t cache_bytes = size_t{256} << 20;
};

/// Thread-safe.
class GrammarCompiler {
 public:
  /// `vocab_size`: ids that the model has logits for, at least one. Takes a fraction of a second
  /// for a large vocabulary. `tokenizer` is not kept.
  GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                  GrammarCompilerOptions options = {});
  ~GrammarCompiler();
  GrammarCompiler(const GrammarCompiler&) = delete;
  GrammarCompiler& operator=(const GrammarCompiler&) = delete;

  /// The constraint that `source` describes; the cache and every request that follows it share it.
  /// Blocks while it compiles. Errors, with the source's param: kInvalidArgument (malformed, or
  /// beyond the limits), kUnsupported (a part of a schema that cannot be enforced: nothing is
  /// enforced by halves), kResourceExhausted (too many
  /// compile already). A source that ran out of time once is refused at once the next time.
  Result<std::shared_ptr<const TokenConstraint>> compile(const GrammarSource& source);

 private:
  struct Shared;
  // Also held by compilations that ran out of time.
  std::shared_ptr<Shared> shared_;
};

}  // namespace nanoflow
