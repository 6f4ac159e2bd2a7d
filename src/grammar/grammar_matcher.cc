#include "grammar/grammar_matcher.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <vector>

#include "base/check.h"

namespace nanoflow {
namespace {

/// What XGrammar throws here means that the output cannot be kept to its grammar any more: the
/// request ends, never the process, and never does it go on unchecked.
class GrammarState final : public ConstraintState {
 public:
  GrammarState(xgrammar::GrammarMatcher matcher, int64_t vocab_size)
      : matcher_(std::move(matcher)), vocab_size_(vocab_size) {}

  bool fill_mask(std::span<int32_t> mask) override {
    NANO_CHECK(static_cast<int64_t>(mask.size()) == mask_words(vocab_size_), "{} words of mask",
               mask.size());
    int64_t words = mask_words(vocab_size_);
    DLTensor tensor{.data = mask.data(),
                    .device = {kDLCPU, 0},
                    .ndim = 1,
                    .dtype = xgrammar::GetBitmaskDLType(),
                    .shape = &words,
                    .strides = nullptr,
                    .byte_offset = 0};
    try {
      if (matcher_.IsTerminated()) return false;
      matcher_.FillNextTokenBitmask(&tensor);
    } catch (const std::exception&) {
      return false;
    }
    return true;
  }

  bool accept(int32_t token) override {
    try {
      return matcher_.AcceptToken(token);
    } catch (const std::exception&) {
      return false;
    }
  }

  [[nodiscard]] bool ended() const override { return matcher_.IsTerminated(); }

 private:
  xgrammar::GrammarMatcher matcher_;
  int64_t vocab_size_;
};

}  // namespace

std::unique_ptr<ConstraintState> GrammarConstraint::start(std::span<const int32_t> end_ids) const {
  std::optional<std::vector<int>> stop_tokens;
  for (const int32_t id : end_ids) {
    if (id < 0 || id >= vocab_size_) continue;  // the model never chooses it
    if (!stop_tokens) stop_tokens.emplace();
    stop_tokens->push_back(id);
  }
  try {
    return std::make_unique<GrammarState>(
        xgrammar::GrammarMatcher(grammar_, stop_tokens, !stop_tokens), vocab_size_);
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace nanoflow
