#include "text/regex_splitter.h"

#include <algorithm>
#include <new>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "base/check.h"
#include "base/error.h"
#include "text/unicode.h"

namespace nanoflow {
namespace {

// A match is first tried on this many bytes; the window doubles while the match touches its end.
// Patterns of tokenisers match words, so few windows ever grow.
constexpr size_t kFirstWindow = 256;
// Bytes of grown windows that may be looked at per byte of text. A match of n bytes needs windows
// of at most 4 n together, so only work that leads to no match can reach this.
constexpr size_t kWorkPerByte = 16;
// PCRE2's backtracking steps per byte of window; exponential patterns meet this limit.
constexpr size_t kStepsPerByte = 32;

const pcre2_code* as_code(const void* code) {
  return static_cast<const pcre2_code*>(code);
}

struct MatchState {
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)) {
    if (!data || !context) throw std::bad_alloc();
  }
  ~MatchState() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  pcre2_match_data* data;
  pcre2_match_context* context;
};

}  // namespace

void RegexSplitter::Deleter::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

RegexSplitter::RegexSplitter(const std::string& pattern) {
  const std::string field = "pre_tokenizer pattern " + pattern;
  for (const std::string_view differs : {"&&", "\\h", "\\H", "\\K", "\\G", "\\C"}) {
    if (pattern.find(differs) != std::string::npos) {
      throw ConfigError(field, fmt::format("'{}' in it is not supported", differs));
    }
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (!code_) {
    std::string message(128, '\0');
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message.data()), message.size());
    message.resize(message.find('\0'));
    throw ConfigError(field, fmt::format("not supported: {} at byte {}", message, offset));
  }
  // Without JIT (some platforms) matching is slower but the same, so its failure is no error.
  pcre2_jit_compile(static_cast<pcre2_code*>(code_.get()),
                    PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
}

bool RegexSplitter::find_all(std::string_view text,
                             std::vector<std::pair<size_t, size_t>>& matches) const {
  const MatchState state(as_code(code_.get()));
  size_t work_left = kWorkPerByte * (text.size() + kFirstWindow);
  size_t window = kFirstWindow;
  for (size_t pos = 0; pos < text.size();) {
    size_t end = std::min(text.size(), pos + window);
    while (end < text.size() && is_continuation(text[end])) ++end;
    if (window > kFirstWindow) {
      if (end - pos > work_left) return false;
      work_left -= end - pos;
    }
    pcre2_set_match_limit(state.context,
                          static_cast<uint32_t>(kStepsPerByte * (end - pos + kFirstWindow)));
    // A hard partial match means that the window's end was looked at: more text could change it.
    const uint32_t partial = end < text.size() ? PCRE2_PARTIAL_HARD : 0;
    // Anchored, because PCRE2 counts its steps anew for every place where a match may start.
    const int rc = pcre2_match(as_code(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()), end,
                               pos, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY | PCRE2_ANCHORED | partial,
                               state.data, state.context);
    if (rc == PCRE2_ERROR_PARTIAL) {
      window *= 2;
      continue;
    }
    window = kFirstWindow;
    if (rc == PCRE2_ERROR_NOMATCH) {
      pos += decode_valid_utf8(text.data() + pos).length;
      continue;
    }
    if (rc < 0) return false;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(state.data);
    if (range[1] <= pos) return false;  // cannot be without \K; never loop
    matches.emplace_back(range[0], range[1]);
    pos = range[1];
  }
  return true;
}

}  // namespace nanoflow
