// Constraints that XGrammar enforces. Internal to grammar/.
#pragma once

#include <memory>
#include <utility>

#include <xgrammar/xgrammar.h>

#include "engine/token_constraint.h"

namespace nanoflow {

/// A compiled grammar over a vocabulary of `vocab_size` ids.
class GrammarConstraint final : public TokenConstraint {
 public:
  GrammarConstraint(xgrammar::CompiledGrammar grammar, int64_t vocab_size)
      : grammar_(std::move(grammar)), vocab_size_(vocab_size) {}

  [[nodiscard]] std::unique_ptr<ConstraintState> start(
      std::span<const int32_t> end_ids) const override;

 private:
  xgrammar::CompiledGrammar grammar_;
  int64_t vocab_size_;
};

}  // namespace nanoflow
