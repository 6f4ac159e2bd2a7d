// Text to token ids and back. Everything a tokeniser needs at run time is behind this one class;
// reading files is tokenizer_loader.h, streaming output is detokenizer.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/text_span.h"

namespace nanoflow {

/// How encode() treats special tokens.
struct EncodeOptions {
  /// Adds what the model expects around a text (bos, eos), as Hugging Face's post-processor does.
  bool add_special_tokens = true;
  /// True: the text of a special token becomes its id, except where `literal` says otherwise. For
  /// rendered chat templates and for prompts whose sender owns them. False: it is ordinary text, so
  /// that a user cannot write control tokens. Added tokens that are not special match in both
  /// cases.
  bool parse_special = false;
  /// Bytes of the text that no special token may contain, in order and disjoint (NANO_CHECKed):
  /// text that somebody else wrote (RenderedChat::literal). Everything else is as without it:
  /// pieces and merges do not see where a span begins or ends.
  std::span<const TextSpan> literal;
};

/// A tokeniser. Immutable after construction: every member may be called from any thread.
class Tokenizer final {
 public:
  class Impl;
  /// Made by load_tokenizer() or tokenizer_from_gguf() (tokenizer_loader.h).
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Token ids of `text`. Time is O(n log n) in the worst case, memory O(n).
  /// Errors: kInvalidArgument when `text` is not valid UTF-8, or when the model's own
  /// pre-tokeniser pattern needs unbounded work on it.
  /// Must equal Hugging Face tokenizers' encode() when parse_special is set.
  [[nodiscard]] Result<std::vector<int32_t>> encode(std::string_view text,
                                                    const EncodeOptions& options = {}) const;

  /// Text of `ids`, always valid UTF-8: bytes that form none become U+FFFD. Ids outside the
  /// vocabulary give nothing. With `skip_special`, special tokens give nothing.
  /// Must equal Hugging Face's decode(clean_up_tokenization_spaces=False) where the bytes are valid
  /// UTF-8; in a malformed run of byte-fallback tokens each bad byte gives one U+FFFD and good
  /// characters stay (SentencePiece's rule; it can be streamed).
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  /// The bytes that token `id` adds to a text (" the", "\xE2\x80"); "" outside the vocabulary.
  /// Valid as long as the tokeniser lives. Without the rule for the start of a text.
  [[nodiscard]] std::string_view token_bytes(int32_t id) const;

  /// The token as the vocabulary spells it ("Ġthe", "▁the", "<0x0A>", "</s>"); "" outside it.
  [[nodiscard]] std::string_view token_text(int32_t id) const;

  /// Id of the token that the vocabulary (or the added tokens) spells `text`; nullopt if none.
  [[nodiscard]] std::optional<int32_t> token_id(std::string_view text) const;

  /// Highest token id + 1, added tokens included; the model's logits may have more rows.
  [[nodiscard]] int32_t vocab_size() const;

  /// True for control tokens (bos, eos, chat markers); false outside the vocabulary.
  [[nodiscard]] bool is_special(int32_t id) const;

  /// Begin and end of a text, unknown and padding tokens, where the tokeniser names them. Which
  /// tokens end a generation is the model's business (generation_config.json), not this id's.
  [[nodiscard]] std::optional<int32_t> bos_id() const;
  [[nodiscard]] std::optional<int32_t> eos_id() const;
  [[nodiscard]] std::optional<int32_t> unk_id() const;
  [[nodiscard]] std::optional<int32_t> pad_id() const;

  /// What encode() puts before and after a text with add_special_tokens.
  [[nodiscard]] std::span<const int32_t> prefix_ids() const;
  [[nodiscard]] std::span<const int32_t> suffix_ids() const;

  /// Whether encode() adds a bos at the start or an eos at the end (add_special_tokens).
  [[nodiscard]] bool add_bos() const;
  [[nodiscard]] bool add_eos() const;

  /// For this folder's own files (detokenizer.cc).
  [[nodiscard]] const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<const Impl> impl_;
};

}  // namespace nanoflow
