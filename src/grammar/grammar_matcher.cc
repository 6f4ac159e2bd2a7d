#include "grammar/grammar_matcher.h"

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <exception>
#include <optional>
#include <vector>

#include "base/check.h"

namespace nanoflow {
namespace {

// A mask of a usual grammar takes some tens of microseconds. Of a very ambiguous one it takes ever
// longer, up to whole seconds, and all other requests wait for it: what one output takes beyond the
// first figure per token adds up to the second at most, in nanoseconds.
constexpr int64_t kUsualNs = 2'000'000;
constexpr int64_t kExcessNs = 250'000'000;

/// Of this thread: a busy machine is not the grammar's fault.
int64_t cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

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
    return in_time([&] {
      if (matcher_.IsTerminated()) return false;
      matcher_.FillNextTokenBitmask(&tensor);
      return true;
    });
  }

  bool accept(int32_t token) override {
    return in_time([&] { return matcher_.AcceptToken(token); });
  }

  [[nodiscard]] bool ended() const override { return matcher_.IsTerminated(); }

 private:
  /// Runs `work`; false also when it throws, or when the output has taken too much time by now.
  template <typename Work>
  bool in_time(const Work& work) {
    const int64_t begin = cpu_ns();
    try {
      if (!work()) return false;
    } catch (const std::exception&) {
      return false;
    }
    excess_ns_ += std::max<int64_t>(0, cpu_ns() - begin - kUsualNs);
    return excess_ns_ <= kExcessNs;
  }

  xgrammar::GrammarMatcher matcher_;
  int64_t vocab_size_;
  int64_t excess_ns_ = 0;
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
