// TokenConstraint: which tokens an output may consist of, as the engine sees it. What stands behind
// one (a JSON schema, a regular expression, a grammar) is known to src/grammar alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace nanoflow {

/// Words of a mask over `vocab_size` tokens: token i is bit i % 32 of word i / 32.
[[nodiscard]] constexpr int64_t mask_words(int64_t vocab_size) {
  return (vocab_size + 31) / 32;
}

/// How far one output has come. Used by one thread at a time.
class ConstraintState {
 public:
  virtual ~ConstraintState() = default;

  /// Sets the bits of the tokens that may come next, end tokens where the output may end, and
  /// clears all others. False: it failed, and the output cannot go on.
  [[nodiscard]] virtual bool fill_mask(std::span<int32_t> mask) = 0;
  /// Takes the next token. False: it is not one that may come.
  [[nodiscard]] virtual bool accept(int32_t token) = 0;
  /// Whether the output has come to its end, so that nothing may follow.
  [[nodiscard]] virtual bool ended() const = 0;
};

/// Immutable; any number of outputs follow one at the same time.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;

  /// A new output's state. `end_ids`: tokens that may end it, and nothing else; without any it has
  /// ended() as soon as it may end. Null: it cannot start.
  [[nodiscard]] virtual std::unique_ptr<ConstraintState> start(
      std::span<const int32_t> end_ids) const = 0;
};

}  // namespace nanoflow
