// Token ids to text, one token at a time, for streaming.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace nanoflow {

struct DetokenizerOptions {
  bool skip_special = true;  ///< special tokens give no text
  /// The ids go on from an earlier text (a prompt), so the model's leading space stays. False: they
  /// are a text of their own, as in Tokenizer::decode().
  bool continues_text = false;
};

/// The text of one sequence as it grows. All pushes and finish() together give exactly
/// Tokenizer::decode() of all ids. Not thread-safe; one per sequence. The tokeniser must outlive
/// it.
class Detokenizer final {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, const DetokenizerOptions& options = {})
      : tokenizer_(&tokenizer), options_(options), at_start_(!options.continues_text) {}

  /// Text that is certain after token `id`: whole UTF-8 characters only, possibly "". At most three
  /// bytes stay behind. Ids outside the vocabulary give nothing.
  [[nodiscard]] std::string push(int32_t id);
  /// The same, appended to `out`.
  void push(int32_t id, std::string& out);

  /// What is left at the end of the sequence: U+FFFD for an unfinished character, else "".
  [[nodiscard]] std::string finish();
  void finish(std::string& out);

 private:
  const Tokenizer* tokenizer_;
  DetokenizerOptions options_;
  bool at_start_;        // no token has given text yet; the leading-space rule is still due
  std::string pending_;  // start of a character whose other bytes have not come yet
};

}  // namespace nanoflow
